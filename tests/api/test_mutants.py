"""Is every check of the API needed, and would a test notice its loss?

Each CEL rule, pattern, bound, format, enumeration and uniqueness is taken out of the schema in turn; the schema that
is left is served by the real API server, and one of the bad objects must then be accepted. Many mutants are versions of
one definition, because a version costs the server nothing to start.

Some bounds cannot be taken out: the server refuses the schema, because a rule over unbounded text could cost too much.
Those are loosened instead, just so far that the object that broke them fits.
"""

import asyncio
import copy
import re
from typing import Any

import pytest

from ebbtide.api.crd import crd_documents
from ebbtide.errors import NotFoundError
from ebbtide.kube.client import InvalidError, KubeClient
from tests.api.bad_objects import BAD
from tests.api.constraints import LIST_TYPE, RULES, Constraint, constraints, violating
from tests.api.samples import FULL, get_at
from tests.api.server import Served, refusal, status_refusal

pytestmark = [pytest.mark.cluster, pytest.mark.full, pytest.mark.timeout(1200)]

_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_VERSIONS_A_CRD = 25
_CONSTRAINTS = constraints()
_BATCHES = [
    (kind, [each for each in _CONSTRAINTS if each.kind == kind][start : start + _VERSIONS_A_CRD])
    for kind in FULL
    for start in range(0, sum(each.kind == kind for each in _CONSTRAINTS), _VERSIONS_A_CRD)
]


def _name(batch: Any) -> str:
    kind, mutants = batch
    return f"{kind} from {mutants[0].name} on"


@pytest.mark.parametrize("batch", _BATCHES, ids=_name)
async def test_without_any_one_check_a_bad_object_gets_in(api: KubeClient, batch: tuple[str, list[Constraint]]) -> None:
    kind, mutants = batch
    served = await _serve(api, kind, mutants, group=f"mutant{_BATCHES.index(batch)}.ebbtide.dev")
    survivors = [each.name for each, place in zip(mutants, served, strict=True) if not await _noticed(api, each, place)]
    assert survivors == []


async def _noticed(api: KubeClient, mutant: Constraint, served: Served) -> bool:
    """Whether one of the bad objects is accepted: the generated one first, then those written by hand."""
    generated = violating(mutant)
    if generated is not None:
        in_status = mutant.value_path[0] == "status"
        ask = status_refusal if in_status else refusal
        if await ask(api, generated, served) is None:
            return True
    for case in BAD:
        if case.obj["kind"] == mutant.kind and await refusal(api, case.obj, served, case.before) is None:
            return True
    return False


async def _serve(api: KubeClient, kind: str, mutants: list[Constraint], group: str) -> list[Served]:
    """One definition under a group of its own, with one version for each mutant."""
    (crd,) = (copy.deepcopy(each) for each in crd_documents().values() if each["spec"]["names"]["kind"] == kind)
    names = crd["spec"]["names"]
    names.pop("shortNames")
    names.pop("categories")
    crd["metadata"]["name"] = f"{names['plural']}.{group}"
    crd["spec"]["group"] = group
    (original,) = crd["spec"]["versions"]
    original.pop("additionalPrinterColumns")
    _strip_descriptions(original["schema"]["openAPIV3Schema"])
    versions = [_mutated(original, mutant, f"v{number}") for number, mutant in enumerate(mutants, 1)]
    crd["spec"]["versions"] = versions
    versions[0]["storage"] = True
    await _install(api, crd, mutants, original)
    places = [Served(f"{group}/{version['name']}") for version in versions]
    for place in places:
        await _until_served(api, place, kind)
    return places


def _mutated(original: dict[str, Any], mutant: Constraint, name: str) -> dict[str, Any]:
    version = copy.deepcopy(original)
    version.update(name=name, storage=False)
    node = get_at(version["schema"]["openAPIV3Schema"], mutant.at)
    if mutant.keyword == RULES:
        del node[RULES][mutant.index]
    else:
        del node[mutant.keyword]
    if mutant.keyword == "format":
        node.pop(RULES, None)  # they compare moments, which without a format are strings
    if mutant.keyword == LIST_TYPE:
        node.pop("x-kubernetes-list-map-keys", None)
        _strip_transitions(node)
    return version


def _strip_transitions(node: dict[str, Any]) -> None:
    """Rules on what an item was before are refused where items can no longer be told apart."""
    if RULES in node:
        node[RULES] = [each for each in node[RULES] if "oldSelf" not in each["rule"]]
    for child in _children(node):
        _strip_transitions(child)


def _children(node: dict[str, Any]) -> list[dict[str, Any]]:
    children = (*node.get("properties", {}).values(), node.get("items"), node.get("additionalProperties"))
    return [child for child in children if child is not None]


def _strip_descriptions(node: dict[str, Any]) -> None:
    """They are half of a definition's size, and a definition of 25 versions must fit into a request."""
    node.pop("description", None)
    for child in _children(node):
        _strip_descriptions(child)


async def _install(api: KubeClient, crd: dict[str, Any], mutants: list[Constraint], original: dict[str, Any]) -> None:
    try:
        await api.request("POST", _CRDS, body=crd)
    except InvalidError as error:
        assert "cost" in str(error), error
        for number in {int(index) for index in re.findall(r"spec\.versions\[(\d+)\]", str(error))}:
            crd["spec"]["versions"][number] = _loosened(original, mutants[number], crd["spec"]["versions"][number])
        await api.request("POST", _CRDS, body=crd)


def _loosened(original: dict[str, Any], mutant: Constraint, version: dict[str, Any]) -> dict[str, Any]:
    assert mutant.keyword in ("maxLength", "maxItems", "maxProperties"), mutant.name
    loosened = copy.deepcopy(original)
    loosened.update(name=version["name"], storage=version["storage"])
    broken = get_at(violating(mutant), mutant.value_path)
    get_at(loosened["schema"]["openAPIV3Schema"], mutant.at)[mutant.keyword] = len(broken)
    return loosened


async def _until_served(api: KubeClient, place: Served, kind: str) -> None:
    path = place.path(FULL[kind])
    for _ in range(200):
        try:
            await api.get(path)
            return
        except NotFoundError:
            await asyncio.sleep(0.1)
    raise AssertionError(f"{path} is not served after 20 s")

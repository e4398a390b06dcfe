"""Settings: where a value comes from, what is refused, and in which words."""

import os
from pathlib import Path

import pytest

from ebbtide.controller.settings import ENV_PREFIX, Settings, load_settings, settings_names
from ebbtide.errors import ConfigurationError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def written(tmp_path: Path, text: str, name: str = "settings.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_defaults_are_valid_and_those_that_are_documented():
    settings = load_settings()
    assert (settings.cycle_interval_s, settings.lease_duration_s) == (10.0, 15.0)
    assert (settings.renew_deadline_s, settings.retry_period_s) == (10.0, 2.0)
    assert settings.leader_election
    assert settings.flight_recorder_bytes == 256 * 2**20
    assert settings.watch_namespaces == ()
    assert settings.cost_labels == ("team", "owner", "department", "product", "environment")
    # written as a person would write them, the defaults pass the same checks as everything else
    shown = {"cycle_interval": "10s", "lease_duration": "15s", "flight_recorder_size": "256Mi", "rate_window": "1m"}
    assert load_settings(shown).model_dump(exclude={"identity"}) == settings.model_dump(exclude={"identity"})


def test_which_labels_costs_are_put_down_to():
    assert load_settings({"cost_labels": "team, example.com/cost-centre"}).cost_labels == (
        "team",
        "example.com/cost-centre",
    )
    assert load_settings({"cost_labels": ""}).cost_labels == ()


def test_two_processes_never_share_an_identity():
    assert load_settings().identity != load_settings().identity


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(tmp_path, monkeypatch):
    file = written(tmp_path, "cycle_interval: 20s\nhttp_port: 1111\nlog_level: debug\n")
    monkeypatch.setenv("EBBTIDE_CYCLE_INTERVAL", "30s")
    monkeypatch.setenv("EBBTIDE_HTTP_PORT", "2222")
    settings = load_settings({"cycle_interval": "40s"}, file)
    assert (settings.cycle_interval_s, settings.http_port, settings.log_level) == (40.0, 2222, "debug")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.yaml", "watch_namespaces: [a, b]\nleader_election: false\nflight_recorder_size: 1Gi\n"),
        ("s.toml", 'watch_namespaces = ["a", "b"]\nleader_election = false\nflight_recorder_size = "1Gi"\n'),
    ],
)
def test_yaml_and_toml_say_the_same(tmp_path, name, text):
    settings = load_settings({}, written(tmp_path, text, name))
    assert settings.watch_namespaces == ("a", "b")
    assert not settings.leader_election
    assert settings.flight_recorder_bytes == 2**30


@pytest.mark.parametrize("text", ["a,b", " a , b ,", "a,b,"])
def test_a_list_from_flag_or_environment_is_separated_by_commas(monkeypatch, text):
    monkeypatch.setenv("EBBTIDE_WATCH_NAMESPACES", text)
    assert load_settings().watch_namespaces == ("a", "b")
    assert load_settings({"watch_namespaces": text}).watch_namespaces == ("a", "b")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"cycle_interval": "0s"}, ["cycle_interval", "--cycle-interval", "'0s'", "from 1s to 5m"]),
        ({"cycle_interval": "6m"}, ["'6m'", "from 1s to 5m"]),
        ({"cycle_interval": "ten"}, ["'ten'", "500ms, 30s, 10m"]),
        ({"cycle_interval": "10"}, ["'10'", "is not a duration"]),
        ({"flight_recorder_size": "12MB"}, ["flight_recorder_size", "'12MB'", "1Mi to 1024Gi"]),
        ({"flight_recorder_size": "2048Gi"}, ["1Mi to 1024Gi"]),
        ({"http_port": "65536"}, ["--http-port", "'65536'", "65535"]),
        ({"http_port": "http"}, ["'http'", "integer"]),
        ({"log_level": "loud"}, ["'loud'", "'debug', 'info', 'warning' or 'error'"]),
        ({"log_format": "xml"}, ["'xml'", "'text' or 'json'"]),
        (
            {"prometheus_url": "prometheus:9090"},
            ["prometheus_url", "'prometheus:9090'", "begins with http:// or https://"],
        ),
        (
            {"prometheus_url": "ftp://x"},
            ["--prometheus-url", "'ftp://x'", "a URL that begins with http:// or https://"],
        ),
        ({"prometheus_tenant": "team-a"}, ["prometheus_tenant", "'team-a'", "NAME:VALUE is allowed"]),
        ({"namespace": "Not_A_Name"}, ["namespace", "'Not_A_Name'", "lower-case letters, digits, - and ."]),
        ({"watch_namespaces": "a,B"}, ["watch_namespaces", "'B'", "lower-case letters"]),
        ({"cost_labels": "team,my team"}, ["--cost-labels", "'my team'", "such as team or example.com/cost-centre"]),
        ({"cost_labels": "team,team"}, ["cost_labels: team is named twice"]),
        ({"cost_labels": ",".join("abcdefghijk")}, ["cost_labels: 11 are named, and at most 10 are allowed"]),
        (
            {"cost_labels": ",".join(f"{'a' * 200}/{each}" for each in "abc")},
            ["cost_labels: their names have 606 characters, and at most 500 are allowed"],
        ),
        ({"writes_per_second": "0"}, ["writes_per_second", "greater than 0"]),
        ({"lease_duration": "15500ms"}, ["lease_duration", "whole seconds"]),
        ({"lease_duration": "10s"}, ["retry_period 2s < renew_deadline 10s < lease_duration 10s"]),
        ({"renew_deadline": "2s"}, ["retry_period 2s < renew_deadline 2s"]),
        ({"rate_window": "90500ms"}, ["rate_window", "whole seconds"]),
        ({"prometheus_username": "u"}, ["prometheus_username and prometheus_password_file", "both"]),
        (
            {"prometheus_username": "u", "prometheus_password_file": "/p", "prometheus_token_file": "/t"},
            ["prometheus_token_file and prometheus_username", "only one"],
        ),
        ({"identity": ""}, ["identity", "at least 1 character"]),
    ],
)
def test_a_wrong_value_is_refused_by_name_value_and_what_is_allowed(flags, words):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(flags)
    assert [word for word in words if word not in str(caught.value)] == []
    assert "_s " not in str(caught.value)  # the field's own name is not the setting's
    assert "pattern" not in str(caught.value)
    assert "^" not in str(caught.value), "no regular expressions for people"


def test_every_fault_is_named_at_once():
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"http_port": "x", "cycle_interval": "x"})
    assert len(str(caught.value).splitlines()) == 2


def test_the_place_a_wrong_value_comes_from_is_named(tmp_path, monkeypatch):
    file = written(tmp_path, "cycle_interval: 1h\n")
    with pytest.raises(ConfigurationError, match=rf"cycle_interval \(file {file}\): '1h'"):
        load_settings({}, file)
    monkeypatch.setenv("EBBTIDE_CYCLE_INTERVAL", "2h")
    with pytest.raises(
        ConfigurationError, match=r"cycle_interval \(environment variable EBBTIDE_CYCLE_INTERVAL\): '2h'"
    ):
        load_settings({}, file)


def test_a_bare_number_is_no_duration_even_in_a_file(tmp_path):
    with pytest.raises(ConfigurationError, match="10 is not allowed: a duration is written with its unit"):
        load_settings({}, written(tmp_path, "cycle_interval: 10\n"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cycle_intervall: 10s\n", ["'cycle_intervall'", "did you mean cycle_interval?"]),
        ("colour: blue\n", ["'colour'", "ebbtide operator --help"]),
        ("cycle_interval_s: 10\n", ["'cycle_interval_s'", "did you mean cycle_interval?"]),
        ("- a\n- b\n", ["a mapping of setting names"]),
        ("{\n", ["settings file"]),
        ("1: 2\n", ["a mapping of setting names"]),
    ],
)
def test_a_file_with_unknown_keys_or_no_settings_is_refused(tmp_path, text, words):
    with pytest.raises(ConfigurationError) as caught:
        load_settings({}, written(tmp_path, text))
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_empty_file_is_fine_and_a_missing_one_is_not(tmp_path):
    assert load_settings({}, written(tmp_path, "")).cycle_interval_s == 10.0
    with pytest.raises(ConfigurationError, match="No such file"):
        load_settings({}, tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("EBBTIDE_CYCLE_INTERVALL", "cycle_interval"),
        ("EBBTIDE_PROMETHEUS_UR", "prometheus_url"),
        ("EBBTIDE_WATCH_NAMESPACE", "watch_namespaces"),
        ("EBBTIDE_LOGLEVEL", "log_level"),
    ],
)
def test_a_misspelt_environment_variable_is_refused(variable, meant):
    with pytest.raises(ConfigurationError, match=rf"{variable} is unknown: did you mean {meant}\?"):
        load_settings(environment={variable: "10s"})


@pytest.mark.parametrize(
    "name",
    [
        "EBBTIDE_PORT",
        "EBBTIDE_SERVICE_HOST",
        "EBBTIDE_SERVICE_PORT_HTTP",
        "EBBTIDE_PORT_8080_TCP_ADDR",
        "EBBTIDE_METRICS_SERVICE_HOST",
        "EBBTIDE_CONFIG",
        "EBBTIDE_SANDBOX_NAME",
        "EBBTIDE_DOWNLOAD_ETCD",
        "EBBTIDE_RECORDER_DIR",
        "EBBTIDE_TRACES",
        "EBBTIDE_ENGINE_METRICS",
        "HOME",
    ],
)
def test_what_kubernetes_and_other_commands_set_is_not_refused(name):
    load_settings(environment={name: "tcp://10.0.0.1:80"})


def test_every_setting_is_described():
    for name, field in settings_names().items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert name == name.lower(), name
    assert set(settings_names()) >= {"kubeconfig", "prometheus_url", "cycle_interval", "lease_duration"}


def test_settings_cannot_be_changed_after_they_were_checked():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().cycle_interval_s = 1.0
    assert issubclass(type(load_settings()), Settings)


def test_how_long_the_ledger_keeps_what(tmp_path):
    settings = load_settings({}, written(tmp_path, "ledger_keep_hours: 40d\nledger_time_zone: Asia/Kolkata\n"))
    assert (settings.ledger_keep_hours_s, settings.ledger_keep_lifetimes_s) == (40 * 86_400.0, 62 * 86_400.0)
    assert settings.ledger_time_zone.key == "Asia/Kolkata"
    for name, value, words in (
        ("ledger_keep_hours", "30d", "a duration from 35d to 3660d is allowed"),
        ("ledger_time_zone", "Mars/Base", "a time zone is allowed, such as Europe/Berlin or UTC"),
    ):
        with pytest.raises(ConfigurationError, match=f"{name}.*{value}.*{words}"):
            load_settings({name: value})

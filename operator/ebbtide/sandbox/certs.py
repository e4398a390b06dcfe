"""Certificates and kubeconfigs of one sandbox, made with the `openssl` command line.

Everything lives in the sandbox's own directory, is readable by its owner only and is made anew on every start. EC
keys, because an RSA key takes a noticeable part of a second each.
"""

import base64
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from ebbtide.errors import SandboxError

_DAYS = 365


@dataclass(frozen=True)
class Pair:
    """A certificate with its private key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in `directory`, for this sandbox alone."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("openssl") is None:
            raise SandboxError("the sandbox makes its certificates with 'openssl', which is not installed: install it")
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        self._directory = directory
        self.pair = Pair(directory / "ca.crt", directory / "ca.key")
        _key(self.pair.key)
        config = directory / "ca.cnf"
        config.write_text(
            "[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=ebbtide-sandbox-ca\n"
            "[ext]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature\n"
            "subjectKeyIdentifier=hash\n"
        )
        days, out = str(_DAYS), str(self.pair.certificate)
        _openssl("req", "-x509", "-new", "-key", str(self.pair.key), "-days", days, "-config", str(config), "-out", out)

    def server(self, name: str, hosts: list[str], addresses: list[str]) -> Pair:
        """A serving certificate for these DNS names and IP addresses."""
        names = [f"DNS:{host}" for host in hosts] + [f"IP:{address}" for address in addresses]
        return self._issue(name, f"/CN={name}", f"extendedKeyUsage=serverAuth\nsubjectAltName={','.join(names)}\n")

    def client(self, file_name: str, user: str, group: str = "") -> Pair:
        """A client certificate: the API server takes CN as the user and O as the group."""
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        return self._issue(file_name, subject, "extendedKeyUsage=clientAuth\n")

    def signing_key(self, name: str) -> Pair:
        """A key pair (public half in `certificate`) for service account tokens."""
        pair = Pair(self._directory / f"{name}.pub", self._directory / f"{name}.key")
        _key(pair.key)
        _openssl("ec", "-in", str(pair.key), "-pubout", "-out", str(pair.certificate))
        return pair

    def _issue(self, name: str, subject: str, extensions: str) -> Pair:
        pair = Pair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        request, extension_file = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extension_file.write_text(f"basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n{extensions}")
        _key(pair.key)
        _openssl("req", "-new", "-key", str(pair.key), "-subj", subject, "-out", str(request))
        signer = ["-CA", str(self.pair.certificate), "-CAkey", str(self.pair.key)]
        serial = str(secrets.randbits(120) + 1)
        files = ["-in", str(request), "-out", str(pair.certificate), "-extfile", str(extension_file)]
        _openssl("x509", "-req", "-sha256", "-days", str(_DAYS), "-set_serial", serial, *signer, *files)
        return pair


def kubeconfig(server: str, ca: Path, *, client: Pair | None = None, token: str = "") -> str:
    """The YAML text of a kubeconfig that carries its credentials itself, so that it can be copied anywhere."""
    user: dict[str, str] = {"token": token} if token else {}
    if client is not None:
        user = {"client-certificate-data": _inline(client.certificate), "client-key-data": _inline(client.key)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": {"server": server, "certificate-authority-data": _inline(ca)}}],
        "users": [{"name": "sandbox", "user": user}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": "sandbox"}}],
        "current-context": "sandbox",
    }
    return yaml.safe_dump(document, sort_keys=False)


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)
    return path


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _key(path: Path) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(path))


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SandboxError(f"openssl {arguments[0]} failed with status {done.returncode}: {done.stderr.strip()[-400:]}")

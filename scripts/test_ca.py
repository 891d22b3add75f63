"""`python -m scripts.test_ca FOLDER`: a certificate authority for tests, and certificates of it.

It writes PEM files: `ca.pem`; `server.pem` for the cluster's processes and `client.pem` for its
clients, each with its key in `NAME.key`; `expired.pem`, which expired yesterday; and `foreign.pem`,
of another authority, `foreign-ca.pem`. Not for production: the authority's key is beside its
certificate.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOSTS = ("localhost", "127.0.0.1", "::1")
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Authority:
    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def make(cls, name: str) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(name), _named(name), key, last_day=365)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(name, key, certificate)

    def write(self, folder: Path) -> None:
        _write(folder, self.name, self.certificate, self.key)

    def issue(
        self, folder: Path, name: str, *, hosts: Sequence[str] = HOSTS, last_day: int = 30
    ) -> None:
        """Writes `name.pem` and `name.key`. The certificate is valid from ten days ago to
        `last_day` days from now, for servers at `hosts` and for clients.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        authority = self.key.public_key()
        certificate = (
            _builder(_named(name), self.certificate.subject, key, last_day=last_day)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(map(_host, hosts)), critical=False)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False
            )
            .sign(self.key, hashes.SHA256())
        )
        _write(folder, name, certificate, key)


def write_all(folder: Path, hosts: Sequence[str] = HOSTS) -> None:
    """Everything that the module's docstring lists."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, foreign = Authority.make("ca"), Authority.make("foreign-ca")
    authority.write(folder)
    foreign.write(folder)
    for name in ("server", "client"):
        authority.issue(folder, name, hosts=hosts)
    authority.issue(folder, "expired", hosts=hosts, last_day=-1)
    foreign.issue(folder, "foreign", hosts=hosts)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, last_day: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 10 * _DAY)
        .not_valid_after(now + last_day * _DAY)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"segue test {name}")])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    # Each file is replaced at once: a reader never sees half of one.
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for suffix, octets in (
        ("key", key_pem),
        ("pem", certificate.public_bytes(serialization.Encoding.PEM)),
    ):
        new = folder / f".{name}.{suffix}"
        new.touch(0o600)
        new.write_bytes(octets)
        new.replace(folder / f"{name}.{suffix}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.test_ca", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--host", action="append", help="host in the certificates; may repeat; default: loopback"
    )
    options = parser.parse_args()
    write_all(options.folder, options.host or HOSTS)
    sys.stdout.write(f"wrote {', '.join(sorted(p.name for p in options.folder.glob('*.pem')))}\n")


if __name__ == "__main__":
    main()

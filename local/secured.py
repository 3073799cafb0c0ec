"""What locks the embedded broker: TLS, users with passwords, and what each may do.

Brokers and controllers know each other by certificate; whoever else comes has a user's password or
token over TLS, and may do what is allowed to that user alone.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from local.authority import Authority
from local.ports import HOST, free_ports
from shared.permissions import SERVICES

BROKER: Final = "broker"
MECHANISMS: Final = ("SCRAM-SHA-256", "SCRAM-SHA-512")
DAYS: Final = 825

_LOGIN: Final = "org.apache.kafka.common.security"
_PROPERTIES: Final = """
# what follows locks it; of two lines of one name the later counts
listeners={listeners}
advertised.listeners={advertised}
listener.security.protocol.map={protocols}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:CN={broker}
ssl.keystore.type=PEM
ssl.keystore.location={certificate}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
ssl.client.auth=required
"""
_OF_LISTENER: Final = """\
listener.name.{name}.ssl.client.auth=none
listener.name.{name}.ssl.keystore.type=PEM
listener.name.{name}.ssl.keystore.location={certificate}
listener.name.{name}.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.{name}.plain.sasl.jaas.config={login}.plain.PlainLoginModule required {users};
listener.name.{name}.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.{name}.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.{name}.oauthbearer.sasl.jaas.config={login}.oauthbearer.OAuthBearerLoginModule \
required unsecuredLoginStringClaim_sub="{broker}";
"""


class Secured:
    """Certificates, users and a door of their own for the clients of one broker.

    All is in a folder: another ``Secured`` on it has the same certificates, passwords and port.
    """

    def __init__(self, folder: Path) -> None:
        """Make what the folder does not hold yet."""
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.ca = self.folder / "ca.pem"
        self.broker_certificate = self.folder / "broker.pem"
        if not self.broker_certificate.exists():
            authority = Authority("Candlecast's embedded Kafka", days=DAYS)
            authority.write(self.ca)
            authority.issue(self.broker_certificate, BROKER, [HOST])
        self.doors: dict[str, tuple[int, Path]] = {"users": (self._port(), self.broker_certificate)}
        """Port and certificate of each listener for users, by name."""
        for user in SERVICES:
            path = self.password_file(user)
            if not path.exists():
                path.touch(mode=0o600)
                path.write_text(secrets.token_urlsafe(24) + "\n")

    def _port(self) -> int:
        path = self.folder / "port"
        if not path.exists():
            path.write_text(f"{free_ports(1)[0]}\n")
        return int(path.read_text())

    @property
    def bootstrap(self) -> str:
        """Where users reach it."""
        return f"{HOST}:{self.doors['users'][0]}"

    def password_file(self, user: str) -> Path:
        """Return the file of a user's password."""
        return self.folder / f"{user}.password"

    def environment(self, user: str, mechanism: str = "SCRAM-SHA-512") -> dict[str, str]:
        """Return the variables of the service that a user is for."""
        return {
            "CANDLECAST_BOOTSTRAP": self.bootstrap,
            "CANDLECAST_SECURITY_PROTOCOL": "SASL_SSL",
            "CANDLECAST_SASL_MECHANISM": mechanism,
            "CANDLECAST_SASL_USERNAME": user,
            "CANDLECAST_SASL_PASSWORD_FILE": str(self.password_file(user)),
            "CANDLECAST_SSL_CA": str(self.ca),
        }

    def flags(self, user: str) -> list[str]:
        """Return the same as flags."""
        return [
            part
            for name, value in self.environment(user).items()
            for part in (f"--{name.removeprefix('CANDLECAST_').lower().replace('_', '-')}", value)
        ]

    def admin_flags(self, bootstrap: str) -> list[str]:
        """Return the flags of one who may do everything, by the broker's own certificate.

        Args:
            bootstrap: the listener for brokers.
        """
        return [
            "--bootstrap", bootstrap, "--security-protocol", "SSL", "--ssl-ca", str(self.ca),
            "--ssl-certificate", str(self.broker_certificate),
        ]  # fmt: skip

    def properties(self, listeners: str, advertised: str) -> str:
        """Return the broker's further properties.

        Args:
            listeners: where it listens without this, as Kafka writes it.
            advertised: the same for its clients.
        """
        more = "".join(f",{name.upper()}://{HOST}:{port}" for name, (port, _) in self.doors.items())
        protocols = {"BROKER": "SSL", "CONTROLLER": "SSL", "PROXIED": "SSL"}
        protocols |= {name.upper(): "SASL_SSL" for name in self.doors}
        users = " ".join(
            f'user_{user}="{password}"' for user, password in self._passwords().items()
        )
        return _PROPERTIES.format(
            listeners=listeners + more,
            advertised=advertised + more,
            protocols=",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            broker=BROKER,
            certificate=self.broker_certificate,
            authority=self.ca,
        ) + "".join(
            _OF_LISTENER.format(
                name=name, certificate=certificate, login=_LOGIN, users=users, broker=BROKER
            )
            for name, (_, certificate) in self.doors.items()
        )

    def format_arguments(self) -> list[str]:
        """Return what formats the storage with the users; they are of this machine alone."""
        return [
            argument
            for user, password in self._passwords().items()
            for mechanism in MECHANISMS
            for argument in ("--add-scram", f"{mechanism}=[name={user},password={password}]")
        ]

    def context(self) -> ssl.SSLContext:
        """Return the TLS context that the broker's own listener takes."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.broker_certificate)
        return context

    def _passwords(self) -> Mapping[str, str]:
        return {user: self.password_file(user).read_text().strip() for user in SERVICES}

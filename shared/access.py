"""How Kafka lets a client in: TLS and SASL as settings, and in words why it does not.

aiokafka swallows the reason for which a broker refuses a client at its start, and says that it
cannot connect; so ``explain`` asks for it by a connection of its own.
"""

from __future__ import annotations

import asyncio
import shlex
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.admin import SaslHandShakeRequest
from pydantic import Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from shared.settings import Secret, ServiceSettings

EXPLAIN_S: Final = 5.0
"""Longest wait for a broker to say why it refuses a client."""

TOKEN_S: Final = 30.0
"""Longest run of the command that prints a token."""

NAMES_TLS: Final = frozenset({"SSL", "SASL_SSL"})
NAMES_SASL: Final = frozenset({"SASL_PLAINTEXT", "SASL_SSL"})

EXPIRED, NOT_YET_VALID, OTHER_HOST, OTHER_ADDRESS = 10, 9, 62, 64
"""OpenSSL's X509_V_ERR codes that say what is wrong with a certificate."""


class AccessError(KafkaError):
    """A broker that refuses this client; says the cause and the setting that mends it."""

    retriable = False

    def __str__(self) -> str:
        return str(self.args[0])


class AccessSettings(ServiceSettings):
    """How Kafka is reached: in the open, over TLS, by password, by token or by certificate."""

    help_title: ClassVar[str] = "Kafka that asks for TLS or a user"

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how Kafka is reached: with SASL by password or token, with SSL "
        "over TLS"
    )  # fmt: skip
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "SCRAM-SHA-512", description="for SASL: how the user is shown"
    )
    sasl_username: str | None = Field(None, description="for SASL by password: the user's name")
    sasl_password: Secret = Field(None, description="for SASL by password: the password")
    sasl_password_file: Path | None = Field(
        None, description="file of the password, instead of CANDLECAST_SASL_PASSWORD"
    )
    sasl_token_command: str | None = Field(
        None,
        description="for OAUTHBEARER: command that prints a token; it is run for each connection, "
        "without a shell",
    )
    ssl_ca: Path | None = Field(
        None, description="for TLS: PEM file of the authorities to trust instead of the system's"
    )
    ssl_certificate: Path | None = Field(
        None, description="for TLS: PEM file of our certificate, where the broker asks for one; "
        "read again when it changes"
    )  # fmt: skip
    ssl_key: Path | None = Field(
        None, description="PEM file of its private key; by default in the same file"
    )
    ssl_key_password: Secret = Field(None, description="what the private key is encrypted with")
    ssl_key_password_file: Path | None = Field(
        None, description="file of that password, instead of CANDLECAST_SSL_KEY_PASSWORD"
    )
    ssl_check_hostname: bool = Field(
        default=True, description="for TLS: refuse a broker whose certificate has another name"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        for rule in self._misfits():
            raise PydanticCustomError("inconsistent", "{rule}", {"rule": rule})
        return self

    def _misfits(self) -> Iterator[str]:
        protocol, mechanism = self.security_protocol, self.sasl_mechanism
        if protocol in NAMES_SASL and mechanism == "OAUTHBEARER" and not self.sasl_token_command:
            yield f"sasl_token_command: {mechanism} needs the command that prints a token"
        if protocol in NAMES_SASL and mechanism != "OAUTHBEARER":
            if not self.sasl_username:
                yield f"sasl_username: {protocol} with {mechanism} needs the user's name"
            if not (self.sasl_password or self.sasl_password_file):
                yield (
                    f"sasl_password: {protocol} with {mechanism} needs a password: set "
                    "CANDLECAST_SASL_PASSWORD or --sasl-password-file"
                )
        if protocol not in NAMES_SASL:
            yield from self._without("SASL", "sasl_username", "sasl_password", "sasl_password_file",
                                     "sasl_token_command")  # fmt: skip
        if protocol not in NAMES_TLS:
            yield from self._without("SSL", "ssl_ca", "ssl_certificate", "ssl_key")
        if self.ssl_key and not self.ssl_certificate:
            yield "ssl_key: a key without --ssl-certificate is of no use"
        for name in ("sasl_password", "ssl_key_password"):
            if getattr(self, name) and getattr(self, f"{name}_file"):
                yield f"{name}: given by its variable and by a file; leave one out"

    def _without(self, what: str, *names: str) -> Iterator[str]:
        """Yield what is set though the protocol has no use for it: perhaps it is the wrong one."""
        for name in names:
            if getattr(self, name) is not None:
                yield (
                    f"{name}: is of no use with --security-protocol {self.security_protocol}; "
                    f"expected one with {what}"
                )


class _Token(AbstractTokenProvider):
    """Tokens that a command prints."""

    def __init__(self, command: str) -> None:
        self._command = command

    async def token(self) -> str:
        """Run the command; raises ``AccessError`` when it gives no token."""
        return await asyncio.to_thread(self._run)  # Faust's client has a loop in another thread

    def _run(self) -> str:
        program, *arguments = shlex.split(self._command)
        where = f"sasl_token_command: {program}"
        try:
            done = subprocess.run(  # noqa: S603 -- the user's own command
                [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                text=True, check=False, timeout=TOKEN_S,
            )  # fmt: skip
        except OSError as error:
            raise AccessError(f"{where}: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise AccessError(f"{where}: has printed nothing for {TOKEN_S:g} s") from error
        token = done.stdout.strip()
        if done.returncode or not token:
            raise AccessError(
                f"{where}: expected a token and exit code 0, got {len(token)} characters and exit "
                f"code {done.returncode}: {done.stderr.strip().rpartition(chr(10))[2]}"
            )
        return token


class _Context(ssl.SSLContext):
    """A TLS context that shows a renewed certificate to the next broker it meets."""

    files: tuple[Path, ...] = ()
    password: str | None = None
    stamps: tuple[int, ...] = ()

    def renew(self) -> None:
        """Read certificate and key if they are other files than before."""
        stamps = tuple(path.stat().st_mtime_ns for path in self.files)
        if stamps != self.stamps:
            key = self.files[1] if len(self.files) > 1 else None
            # with a password that may be empty OpenSSL never asks at a terminal
            self.load_cert_chain(self.files[0], key, lambda: self.password or "")
            self.stamps = stamps

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        # asyncio and uvloop both come here for each connection
        if self.files:
            self.renew()
        return super().wrap_bio(*args, **kwargs)


def client_options(access: AccessSettings) -> dict[str, Any]:
    """Return what an aiokafka client is given to be let in.

    Raises:
        AccessError: when a file of the settings cannot be used.
    """
    options: dict[str, Any] = {"security_protocol": access.security_protocol}
    if access.security_protocol in NAMES_TLS:
        options["ssl_context"] = _context(access)
    if access.security_protocol in NAMES_SASL:
        options["sasl_mechanism"] = access.sasl_mechanism
        if access.sasl_token_command and access.sasl_mechanism == "OAUTHBEARER":
            options["sasl_oauth_token_provider"] = _Token(access.sasl_token_command)
        else:
            options["sasl_plain_username"] = access.sasl_username
            options["sasl_plain_password"] = _secret(access, "sasl_password")
    return options


def _secret(access: AccessSettings, name: str) -> str | None:
    """Return a secret from its variable or its file, without the file's last line break."""
    given: SecretStr | None = getattr(access, name)
    path: Path | None = getattr(access, f"{name}_file")
    if path is None:
        return given.get_secret_value() if given else None
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not text"
        raise AccessError(f"{name}_file: {path}: {why}") from error
    if not text:
        raise AccessError(f"{name}_file: {path}: expected a password, got an empty file")
    return text


def _context(access: AccessSettings) -> ssl.SSLContext:
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = access.ssl_check_hostname
    if access.ssl_ca is None:
        context.load_default_certs()
    else:
        with _naming("ssl_ca", access.ssl_ca):
            context.load_verify_locations(access.ssl_ca)
    if access.ssl_certificate is not None:
        context.password = _secret(access, "ssl_key_password")
        context.files = (access.ssl_certificate, *([access.ssl_key] if access.ssl_key else []))
        with _naming("ssl_certificate", access.ssl_certificate):
            context.renew()
    return context


class _naming:  # noqa: N801 -- a context manager that reads like a function
    """Turns an error of a PEM file into one that names the setting."""

    def __init__(self, setting: str, path: Path) -> None:
        self._where = f"{setting}: {path}"

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ssl.SSLError):
            raise AccessError(
                f"{self._where}: expected PEM that OpenSSL reads, with the key that belongs to it "
                f"and --ssl-key-password-file if that is encrypted: {error.reason or error}"
            ) from error
        if isinstance(error, OSError):
            raise AccessError(f"{self._where}: {error.strerror}") from error


async def explain(access: AccessSettings, bootstrap: str) -> None:
    """Ask each broker why it does not let us in; return when it does, or does not answer at all.

    Raises:
        AccessError: when it refuses this client.
    """
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or not port.isdecimal():
            raise AccessError(f"bootstrap: expected host:port, several by comma, got {address!r}")
        why = await _refusal(access, host.strip("[]"), int(port))
        if why is not None:
            raise AccessError(f"Kafka at {address.strip()} refuses this client: {why}")


async def _refusal(access: AccessSettings, host: str, port: int) -> str | None:
    try:
        async with asyncio.timeout(EXPLAIN_S), _connection(host, port, client_options(access)):
            pass
    except AccessError as error:
        return str(error)
    except (OSError, KafkaError, TimeoutError, EOFError) as error:
        why = _in_words(access, error)
        return why or await _of_protocol(access, host, port)
    return await _of_protocol(access, host, port)


@asynccontextmanager
async def _connection(
    host: str, port: int, options: dict[str, Any]
) -> AsyncIterator[AIOKafkaConnection]:
    given = options | {"request_timeout_ms": int(EXPLAIN_S * 1000)}
    connection: AIOKafkaConnection = await create_conn(host, port, **given)
    try:
        yield connection
    finally:
        connection.close()


def _in_words(access: AccessSettings, error: BaseException) -> str | None:
    """Return what an error at the door says about us; None when it says nothing for certain."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    for link in chain:
        if isinstance(link, ssl.SSLCertVerificationError):
            return _of_their_certificate(access, link)
        if isinstance(link, ssl.SSLError) and "ALERT" in (link.reason or ""):
            shown = access.ssl_certificate or "none"
            return (
                f"it does not take our certificate ({link.reason}); ssl_certificate is {shown}: "
                "expected one that its authorities have signed and that has not expired"
            )
        if isinstance(link, UnsupportedSaslMechanismError):
            known = str(link.args[0]).rpartition(": ")[2] if link.args else ""
            return f"sasl_mechanism: it knows {known or 'others'}, got {access.sasl_mechanism}"
        if isinstance(link, IllegalSaslStateError):
            return (
                "it asks for no SASL at this port: security_protocol should be PLAINTEXT or SSL, "
                f"got {access.security_protocol}"
            )
        if isinstance(link, SaslAuthenticationFailed):
            return _of_user(access)
    return None


def _of_user(access: AccessSettings) -> str:
    if access.sasl_mechanism == "OAUTHBEARER":
        return "it does not take the token that sasl_token_command prints"
    place = access.sasl_password_file or "CANDLECAST_SASL_PASSWORD"
    return (
        f"wrong user or password: sasl_username is {access.sasl_username!r}, sasl_password is from "
        f"{place}, sasl_mechanism is {access.sasl_mechanism}"
    )


def _of_their_certificate(access: AccessSettings, error: ssl.SSLCertVerificationError) -> str:
    why = error.verify_message
    if error.verify_code in {EXPIRED, NOT_YET_VALID}:
        return f"its certificate is of another time ({why}): renew it there, or set our clock"
    if error.verify_code in {OTHER_HOST, OTHER_ADDRESS}:
        return (
            f"its certificate is of another host ({why}): set bootstrap to a name that the "
            "certificate has, or ssl_check_hostname to off"
        )
    trusted = access.ssl_ca or "the system's authorities"
    return f"its certificate is not signed by whom we trust ({why}): ssl_ca is {trusted}"


async def _of_protocol(access: AccessSettings, host: str, port: int) -> str | None:
    """Tell whether the port speaks TLS or wants SASL where we do not, by trying it out."""
    speaks_tls = await _speaks_tls(host, port)
    if speaks_tls is None:
        return None
    expects_tls = access.security_protocol in NAMES_TLS
    if speaks_tls != expects_tls:
        wanted = "SSL or SASL_SSL" if speaks_tls else "PLAINTEXT or SASL_PLAINTEXT"
        return (
            f"it speaks {'TLS' if speaks_tls else 'no TLS'} at this port: security_protocol should "
            f"be {wanted}, got {access.security_protocol}"
        )
    if access.security_protocol not in NAMES_SASL and await _wants_sasl(access, host, port):
        return (
            "it wants a user: security_protocol should be "
            f"{'SASL_SSL' if speaks_tls else 'SASL_PLAINTEXT'}, got {access.security_protocol}"
        )
    return None


async def _speaks_tls(host: str, port: int) -> bool | None:
    """Tell whether a port speaks TLS; None when it speaks nothing that we know."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only to see that it does
    try:
        async with asyncio.timeout(EXPLAIN_S):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.close()
        return True
    except (OSError, TimeoutError, EOFError):
        pass
    try:
        async with asyncio.timeout(EXPLAIN_S), _connection(host, port, {}):
            return False
    except (OSError, KafkaError, TimeoutError, EOFError):
        return None


async def _wants_sasl(access: AccessSettings, host: str, port: int) -> bool:
    try:
        async with (
            asyncio.timeout(EXPLAIN_S),
            _connection(host, port, client_options(access)) as connection,
        ):
            answer: Any = await connection.send(SaslHandShakeRequest("PLAIN"))
    except (OSError, KafkaError, TimeoutError, EOFError):
        return False
    return for_code(answer.error_code) is not IllegalSaslStateError

"""Settings of a server: addresses, and limits."""

from dataclasses import dataclass

from ds2_jax.recognition.stream_step import SIZES

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Limits:
    """The section `serve` of a config. sessions: at the same time. Raises ValueError naming field and value."""

    sessions: int = 50
    upload_mb: int = 500
    longest_file_s: float = 14_400.0
    stop_s: float = 10.0

    def __post_init__(self):
        """Refuse values without meaning."""
        most = SIZES[-1]
        _check(1 <= self.sessions <= most, "sessions", self.sessions, f"use 1 to {most}")
        _check(self.upload_mb >= 1, "upload_mb", self.upload_mb, "use 1 or more")
        _check(self.longest_file_s > 0, "longest_file_s", self.longest_file_s, "use a positive number of seconds")
        _check(self.stop_s >= 0, "stop_s", self.stop_s, "use 0 seconds or more")


@dataclass(frozen=True)
class Address:
    """Where a server listens, and who may use it.

    wyoming_port, demo_port: of the protocols that have a port of their own; 0 for none. token: required from clients; ''
    for none. origin: of pages of other hosts that may use the server. Raises ValueError naming flag and value.
    """

    host: str = "127.0.0.1"
    port: int = 8086
    wyoming_port: int = 0
    demo_port: int = 0
    token: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    origin: str = ""

    def __post_init__(self):
        """Refuse what cannot be served."""
        for name in ("port", "wyoming_port", "demo_port"):
            value = getattr(self, name)
            if not 0 <= value <= 65_535:
                raise ValueError(f"--{name}={value}: use 1 to 65535")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("--tls_cert and --tls_key belong together: give both files")
        if self.token and (self.wyoming_port or self.demo_port) and self.host not in LOOPBACK:
            raise ValueError(
                "--token cannot protect --wyoming_port and --demo_port, whose protocols have no token: leave them out, or use "
                "--host=127.0.0.1"
            )

    @staticmethod
    def read_token(given: str, *, required: bool) -> str:
        """Return the token that is meant, '' for none. Raises ValueError if one is required and nothing is given."""
        if required and not given:
            raise ValueError(
                "no token is set, so that anyone who reaches this server could use it: set DS2_TOKEN (or --token=...); "
                "--token=none serves without a token"
            )
        return "" if given == "none" else given


def _check(valid: bool, name: str, value: object, advice: str) -> None:
    if not valid:
        raise ValueError(f"config.serve.{name} is {value!r}: {advice}")

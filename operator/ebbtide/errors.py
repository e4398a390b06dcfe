"""The errors Ebbtide raises on purpose.

EbbtideError                  says what failed, for which object, and what to do next
├── RetryableError            the same call may succeed later: API server or Prometheus out of reach
│   └── ConflictError         somebody else wrote first (HTTP 409): observe again, plan again
├── ConfigurationError        a setting or a file is wrong: names it, its value and what is allowed
├── NotFoundError             the object or endpoint does not exist
└── SandboxError              a part of the local control plane could not be had or ended by itself
"""


class EbbtideError(Exception):
    """Base of every error raised on purpose; its text is shown to people as it is."""


class RetryableError(EbbtideError):
    """The outside did not answer, or said "later"."""


class ConflictError(RetryableError):
    """The object changed since it was read (HTTP 409)."""


class ConfigurationError(EbbtideError):
    """A setting or a file that a person can mend."""


class NotFoundError(EbbtideError):
    """The object or endpoint does not exist (HTTP 404)."""


class SandboxError(EbbtideError):
    """The sandbox cannot go on; the text names the log to read."""

"""Turns the errors of an S3 store, of minio and of the network into the port's."""

import ssl
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import MaxRetryError

from schemas.errors import FacestreamError, InvalidRequest, StorageFull, Unavailable

_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage"}
# MinIO checks the free space before a put. When the put itself fills the disk, it answers InternalError with this text.
_FULL_MESSAGE = "no space left on device"
_TOO_LONG = {"KeyTooLongError", "MetadataTooLarge", "EntityTooLarge"}
# These are Unavailable and not ConfigurationError, so that the worker retries until somebody has solved the problem.
_REMEDIES = {
    "NoSuchBucket": "there is no such bucket: make it with `facestream init`",
    "AccessDenied": "the store refuses this user, or its password: see FACESTREAM_OBJECTS",
    "InvalidAccessKeyId": "the store does not know this user: see FACESTREAM_OBJECTS",
    "SignatureDoesNotMatch": "the store refuses the password: see FACESTREAM_OBJECTS",
    "AuthorizationHeaderMalformed": "the store is in another region: say which with ?region= in FACESTREAM_OBJECTS",
}


def to_port_error(error: Exception, where: str) -> FacestreamError:
    """The port's error for an error of minio or urllib3. `where` names the store in the message."""
    match error:
        case S3Error():
            return code_to_port_error(error.code or "", error.message or "", where)
        case ServerError():
            return Unavailable(f"{where} answers with status {error.status_code}")
        case InvalidResponseError() | ParseError():
            return Unavailable(f"{where} does not speak S3: is it the right port, and is the option tls right?")
        case _:
            return Unavailable(f"{where} cannot be reached: {_describe(error)}")


def code_to_port_error(code: str, message: str, where: str) -> FacestreamError:
    """The port's error for an error code of S3."""
    if code in _FULL or _FULL_MESSAGE in message:
        return StorageFull(f"no room left in {where}: free some space there, then work continues")
    if code in _TOO_LONG:
        return InvalidRequest(f"{where}: {message}")
    return Unavailable(f"{where}: {_REMEDIES.get(code) or f'{message} ({code})'}")


def _describe(error: Exception) -> str:
    """The text of the operating system's error, without the names of the libraries that passed it on."""
    if isinstance(error, MaxRetryError) and error.reason is not None:
        error = error.reason
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    match cause:
        case ssl.SSLError():
            return f"TLS: {cause.reason}"
        case TimeoutError():
            return "no answer in time"
        case OSError(strerror=str(text)):
            return text
    return str(error.args[0]) if error.args else type(error).__name__

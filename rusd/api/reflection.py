"""gRPC server reflection: lets grpcurl and the like call without .proto files."""

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, Final

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError

from rusd.api import errors
from rusd.pb.pool import POOL
from rusd.wire.grpc import Code
from rusd.wire.service import StreamHandler, StreamMethod
from rusd.wire.stream import Stream

_NAME: Final = "grpc.reflection.{}.ServerReflection"


class Reflection:
    """Describes the services that it is told of, and itself."""

    def __init__(self, paths: Iterable[str]) -> None:
        """`paths` are those of all methods: "/package.Service/Method"."""
        names = {path.split("/")[1] for path in paths}
        names |= {_NAME.format(version) for version in ("v1", "v1alpha")}
        self.services = sorted(names)

    def methods(self) -> list[StreamMethod]:
        return [
            StreamMethod(f"/{_NAME.format('v1')}/ServerReflectionInfo", self._open_v1),
            StreamMethod(f"/{_NAME.format('v1alpha')}/ServerReflectionInfo", self._open_v1alpha),
        ]

    # Few ask, so the messages are read in when one does. Both versions have the same.

    def _open_v1(self, stream: Stream) -> StreamHandler:
        return _Conversation(stream, _messages()[0], self.services)

    def _open_v1alpha(self, stream: Stream) -> StreamHandler:
        return _Conversation(stream, _messages()[1], self.services)


def _messages() -> tuple[ModuleType, ModuleType]:
    from rusd.pb import reflection_v1_pb2, reflection_v1alpha_pb2

    return reflection_v1_pb2, reflection_v1alpha_pb2


class _Conversation:
    """One client's questions. What is behind each answer is small, and no answer waits."""

    def __init__(self, stream: Stream, messages: Any, services: list[str]) -> None:
        self._stream, self._messages, self._services = stream, messages, services

    def message(self, data: bytes) -> None:
        try:
            request = self._messages.ServerReflectionRequest.FromString(data)
        except DecodeError:
            self._stream.finish(errors.MALFORMED)
            return
        response = self._messages.ServerReflectionResponse(
            valid_host=request.host, original_request=request
        )
        try:
            self._answer(request, response)
        except KeyError as error:
            response.error_response.error_code = Code.NOT_FOUND
            response.error_response.error_message = str(error.args[0])
        self._stream.send(response.SerializeToString())

    def _answer(self, request: Any, response: Any) -> None:
        """Raises KeyError for what there is not."""
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            for name in self._services:
                response.list_services_response.service.add(name=name)
        elif kind == "file_by_filename":
            self._describe(POOL.FindFileByName(request.file_by_filename), response)
        elif kind == "file_containing_symbol":
            self._describe(_file_with(request.file_containing_symbol), response)
        elif kind == "all_extension_numbers_of_type":
            name = request.all_extension_numbers_of_type
            POOL.FindMessageTypeByName(name)
            response.all_extension_numbers_response.base_type_name = name
        elif kind == "file_containing_extension":
            raise KeyError(f"extensions: {request.file_containing_extension.containing_type}")
        else:
            response.error_response.error_code = Code.INVALID_ARGUMENT
            response.error_response.error_message = "no message_request"

    def _describe(self, file: FileDescriptor, response: Any) -> None:
        """The file, and what it imports, of those that are about services."""
        public = {each.name for name in self._services for each in _with_imports(_file_of(name))}
        if file.name not in public:
            raise KeyError(f"not found: {file.name}")
        for each in dict.fromkeys(_with_imports(file)):
            response.file_descriptor_response.file_descriptor_proto.append(each.serialized_pb)

    def half_closed(self) -> None:
        self._stream.finish()

    def closed(self) -> None:
        pass

    def writable(self) -> None:
        pass


def _file_of(service: str) -> FileDescriptor:
    return POOL.FindServiceByName(service).file


def _file_with(symbol: str) -> FileDescriptor:
    """The file that declares a message, a service or a method. Raises KeyError."""
    try:
        return POOL.FindFileContainingSymbol(symbol)
    except KeyError:
        return POOL.FindMethodByName(symbol).containing_service.file


def _with_imports(file: FileDescriptor) -> Iterator[FileDescriptor]:
    yield file
    for imported in file.dependencies:
        yield from _with_imports(imported)

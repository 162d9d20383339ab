"""gRPC's own services, asked with gRPC's own clients."""

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.conftest import StartMember
from tests.members import Member

SECONDS = 30.0
SERVING = health_pb2.HealthCheckResponse.SERVING


def test_the_member_is_the_one_service_that_has_health(server: Member) -> None:
    with server.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        whole = health_pb2.HealthCheckRequest()
        assert stub.Check(whole, timeout=SECONDS).status == SERVING
        watch = stub.Watch(whole, timeout=SECONDS)
        assert next(watch).status == SERVING
        other = health_pb2.HealthCheckRequest(service="etcdserverpb.KV")
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(other, timeout=SECONDS)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert caught.value.details() == "unknown service"
        unknown = next(stub.Watch(other, timeout=SECONDS)).status
        assert unknown == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_who_watches_hears_that_the_member_stops(
    start_member: StartMember, subject_command: tuple[str, ...]
) -> None:
    member = start_member(subject_command)
    with member.channel() as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        member.terminate()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            next(watch)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_client_without_proto_files_finds_and_calls_a_method(subject: Member) -> None:
    with subject.channel() as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert services >= {
            "etcdserverpb.KV",
            "etcdserverpb.Watch",
            "v3lockpb.Lock",
            "v3electionpb.Election",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        pool = DescriptorPool(database)
        for name in services:
            assert pool.FindServiceByName(name).methods
        method = pool.FindServiceByName("etcdserverpb.KV").methods_by_name["Range"]
        assert method.input_type.fields_by_name["range_end"].number == 2
        with pytest.raises(KeyError):
            pool.FindMessageTypeByName("no.such.Message")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_what_there_is_not_is_answered_and_the_stream_goes_on(
    version: str, subject: Member
) -> None:
    request = reflection_pb2.ServerReflectionRequest
    asked = [
        request(host="h", list_services="*"),
        request(file_by_filename="peer.proto"),  # of the members among themselves
        request(file_by_filename="none.proto"),
        request(file_containing_symbol="none"),
        request(file_containing_symbol="etcdserverpb.KV.Put"),
        request(file_by_filename="kv.proto"),
        request(all_extension_numbers_of_type="mvccpb.KeyValue"),
        request(
            file_containing_extension=reflection_pb2.ExtensionRequest(
                containing_type="mvccpb.KeyValue", extension_number=1
            )
        ),
        request(),
    ]
    with subject.channel() as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=request.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        answers = list(call(iter(asked), timeout=SECONDS))
    assert [answer.original_request for answer in answers] == asked
    assert answers[0].valid_host == "h"
    assert [answer.error_response.error_code for answer in answers] == [0, 5, 5, 5, 0, 0, 0, 5, 3]
    assert len(answers[5].file_descriptor_response.file_descriptor_proto) == 1


def test_the_official_stub_takes_the_answers(subject: Member) -> None:
    with subject.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=SECONDS)
        assert len(answer.list_services_response.service) > 10

"""JSON to requests: what etcd takes, and its words for what it does not."""

import json
from base64 import b64encode
from contextlib import suppress

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from rusd.gateway.decode import BadJsonError, first_message, messages
from rusd.gateway.encode import to_json
from rusd.gateway.locate import syntax_error
from rusd.pb.rpc_pb2 import DESCRIPTOR, RangeRequest, TxnResponse, WatchRequest

MESSAGES = DESCRIPTOR.message_types_by_name
RANGE = MESSAGES["RangeRequest"]


def read(text: str) -> RangeRequest:
    return RangeRequest.FromString(first_message(RANGE, text.encode()))


def complaint(text: str | bytes) -> str:
    with pytest.raises(BadJsonError) as caught:
        first_message(RANGE, text if isinstance(text, bytes) else text.encode())
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", RangeRequest()),
        (" \n", RangeRequest()),
        ("{}", RangeRequest()),
        ('{"key":null,"limit":null}', RangeRequest()),
        ('{"key":"Zm9v","range_end":"AA==","limit":"5"}', {"key": b"foo", "limit": 5}),
        ('{"key":"Zm9v","rangeEnd":"AA==","limit":5}', {"key": b"foo", "limit": 5}),
        ('{"limit":5e0}', {"limit": 5}),
        ('{"limit":"5.0"}', {"limit": 5}),
        ('{"limit":-9223372036854775808}', {"limit": -(2**63)}),
        ('{"sort_order":"DESCEND","sort_target":3}', {"sort_order": 2, "sort_target": 3}),
        ('{"sort_order":"NO_SUCH"}', {}),
        ('{"sort_order":-1}', {"sort_order": -1}),
        ('{"serializable":true,"no_such":{"a":[1,{}]}}', {"serializable": True}),
        ('{"key":"Zg"}', {"key": b"f"}),
        ('{"key":"_-8"}', {"key": b"\xff\xef"}),
        ('{"key":"/+8="}', {"key": b"\xff\xef"}),
        ('{"key":"Zm\\r\\n9v"}', {"key": b"foo"}),
        ('{"key":"Zm9v"} whatever follows', {"key": b"foo"}),
    ],
)
def test_what_is_taken(text: str, expected: RangeRequest | dict[str, object]) -> None:
    wanted = RangeRequest()
    if isinstance(expected, dict):
        if "range_end" in text or "rangeEnd" in text:
            wanted.range_end = b"\0"
        wanted.MergeFrom(RangeRequest(**expected))  # type: ignore[arg-type]
    assert read(text) == wanted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", "proto: syntax error (line 1:1): unexpected token ["),
        ("  null", "proto: syntax error (line 1:1): unexpected token null"),
        ('"text"', 'proto: syntax error (line 1:1): unexpected token "text"'),
        ('{"limit":1.5}', "proto: (line 1:10): invalid value for int64 field limit: 1.5"),
        ('{"limit":"+5"}', 'proto: (line 1:10): invalid value for int64 field limit: "+5"'),
        ('{"limit":"05"}', 'proto: (line 1:10): invalid value for int64 field limit: "05"'),
        ('{"limit":1e999999999}', "proto: (line 1:10): invalid value for int64 field limit: 1e9"),
        ('{"limit":true}', "proto: (line 1:10): invalid value for int64 field limit: true"),
        ('{"limit":{}}', "proto: (line 1:10): invalid value for int64 field limit: {"),
        ('{"a":[1,[2]],"limit":[]}', "proto: (line 1:22): invalid value for int64 field limit: ["),
        ('{\n "key" :\n  5}', "proto: (line 3:3): invalid value for bytes field key: 5"),
        ('{"key":"Zm9v!"}', 'proto: (line 1:8): invalid value for bytes field key: "Zm9v!"'),
        ('{"key":"Z"}', 'proto: (line 1:8): invalid value for bytes field key: "Z"'),
        ('{"key":"_+8="}', 'proto: (line 1:8): invalid value for bytes field key: "_+8="'),
        ('{"key":"é"}', 'proto: (line 1:8): invalid value for bytes field key: "é"'),
        ('{"keys_only":"true"}', "proto: (line 1:14): invalid value for bool field keysOnly: "),
        ('{"sort_order":1.5}', "proto: (line 1:15): invalid value for enum field sortOrder: 1.5"),
        ('{"key":"","key":""}', 'proto: (line 1:11): duplicate field "key"'),
        ('{"range_end":"","rangeEnd":""}', 'proto: (line 1:17): duplicate field "rangeEnd"'),
        ("{", "unexpected EOF"),
        ('{"key":"', "unexpected EOF"),
        ('{"key":tru', "unexpected EOF"),
        ("{key:1}", "invalid character 'k' looking for beginning of object key string"),
        ('{"key":1,}', "invalid character '}' looking for beginning of object key string"),
        ('{"key" 1}', "invalid character '1' after object key"),
        ('{"key":1 "limit":2}', "invalid character '\"' after object key:value pair"),
        ('{"key":"limit" 2}', "invalid character '2' after object key:value pair"),
        ('{"key":[1 2]}', "invalid character '2' after array element"),
        ('{"key":[1,]}', "invalid character ']' looking for beginning of value"),
        ('{"key":}', "invalid character '}' looking for beginning of value"),
        ('{"key":NaN}', "invalid character 'N' looking for beginning of value"),
        ('{"key":nulL}', "invalid character 'L' in literal null (expecting 'l')"),
        ('{"key":"a\tb"}', r"invalid character '\t' in string literal"),
        ('{"key":"\\x"}', "invalid character 'x' in string escape code"),
        ('{"key":"\\u12x4"}', r"invalid character 'x' in \u hexadecimal character escape"),
        ("'key'", r"invalid character '\'' looking for beginning of value"),
        ("é", "invalid character 'Ã' looking for beginning of value"),
    ],
)
def test_what_is_wrong_is_told_as_etcd_tells_it(text: str, expected: str) -> None:
    assert complaint(text).startswith(expected)


def test_bytes_that_are_no_text() -> None:
    assert complaint(b"\xff\xfe") == "invalid character 'ÿ' looking for beginning of value"
    assert complaint(b'{"key":"\xff"}').startswith("proto: (line 1:8): invalid value for bytes")


def test_too_deep_is_refused() -> None:
    assert complaint('{"no_such":' + "[" * 200_000) == "exceeded max depth"


def test_one_of_several_fields() -> None:
    text = b'{"create_request":{},"cancelRequest":{}}'
    with pytest.raises(BadJsonError) as caught:
        first_message(MESSAGES["WatchRequest"], text)
    assert str(caught.value) == (
        'proto: (line 1:22): error parsing "cancelRequest", '
        "oneof etcdserverpb.WatchRequest.request_union is already set"
    )
    empty = WatchRequest.FromString(
        first_message(MESSAGES["WatchRequest"], b'{"createRequest":{}}')
    )
    assert empty.WhichOneof("request_union") == "create_request"


def test_nested_places() -> None:
    text = b'{"success":[{"request_put":{}},{"request_put":{"key":"Zg==", "lease":"x"}}]}'
    with pytest.raises(BadJsonError) as caught:
        first_message(MESSAGES["TxnRequest"], text)
    place = text.index(b'"x"') + 1
    assert str(caught.value).startswith(f"proto: (line 1:{place}): invalid value for int64 field")


def test_requests_follow_each_other() -> None:
    read_all = messages(RANGE, b' {"limit":1}{"limit":2}\n{"limit":3} {')
    assert [RangeRequest.FromString(next(read_all)).limit for _ in range(3)] == [1, 2, 3]
    with pytest.raises(BadJsonError):
        next(read_all)


keys = st.binary(max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1)
ranges = st.builds(
    RangeRequest,
    key=keys,
    range_end=keys,
    limit=numbers,
    revision=numbers,
    sort_order=st.integers(0, 2),
    sort_target=st.integers(0, 4),
    serializable=st.booleans(),
)


@given(ranges, st.booleans())
def test_what_protobuf_writes_is_read(request: RangeRequest, own_names: bool) -> None:
    text = json_format.MessageToJson(request, preserving_proto_field_name=own_names)
    assert read(text) == request


@given(st.text(max_size=40) | st.text('{}[],:"\\truefalsn0e.-x \n', max_size=40))
def test_any_text_is_a_request_or_an_error(text: str) -> None:
    with suppress(BadJsonError):
        first_message(RANGE, text.encode("utf-8", "surrogatepass"))


@given(st.text('{}[],:"\\an1 ', max_size=30), st.integers(0, 30))
def test_a_complaint_can_be_made_of_any_text(text: str, at: int) -> None:
    assert syntax_error(text, min(at, len(text)))


def test_a_response_has_names_strings_and_base64() -> None:
    response = TxnResponse(succeeded=True)
    response.header.cluster_id = 2**64 - 1
    found = response.responses.add().response_range
    found.kvs.add(key=b"\xff", value="é".encode(), lease=-5)
    written = json.loads(to_json(MESSAGES["TxnResponse"], response.SerializeToString()))
    assert written == {
        "header": {"cluster_id": "18446744073709551615"},
        "succeeded": True,
        "responses": [
            {
                "response_range": {
                    "kvs": [
                        {
                            "key": b64encode(b"\xff").decode(),
                            "value": b64encode("é".encode()).decode(),
                            "lease": "-5",
                        }
                    ]
                }
            }
        ],
    }

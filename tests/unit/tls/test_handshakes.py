"""Who connects with TLS, on real sockets: what is sent passes, and bad ones harm nobody."""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from rusd.tls.admission import Admission
from rusd.tls.context import dial_context, server_context
from rusd.tls.dialing import Dialing
from rusd.tls.files import Reloaded
from rusd.tls.handshakes import Handshakes, Limits
from rusd.tls.settings import Settings
from rusd.tls.transport import TlsTransport
from tests.unit.tls.site import SECONDS, Lines, Site

Loop = Callable[[Awaitable[None]], None]


def on_asyncio(scenario: Any) -> None:
    """Run it on asyncio's own loop."""
    asyncio.run(limited(scenario))


def on_uvloop(scenario: Any) -> None:
    """Run it on the loop that members use."""
    uvloop.run(limited(scenario))


async def limited(scenario: Any) -> None:
    async with asyncio.timeout(2 * SECONDS):
        await scenario


@pytest.fixture(params=[on_asyncio, on_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Loop:
    """How to run a scenario."""
    given: Loop = request.param
    return given


class Echo(asyncio.Protocol):
    """Sends back what it gets, and is remembered."""

    def __init__(self) -> None:
        """Nothing was got."""
        self.transport: TlsTransport
        self.received = b""
        self.lost = asyncio.Event()
        self.error: Exception | None = None

    def connection_made(self, transport: Any) -> None:
        """Asyncio."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Asyncio."""
        self.received += data
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio."""
        self.error = exc
        self.lost.set()


class Listening:
    """A listener of one side's settings."""

    def __init__(
        self, settings: Settings, lines: Lines, limits: Limits, protocol: type[Echo]
    ) -> None:
        """It does not listen yet."""
        self._protocol = protocol
        contexts = Reloaded(lambda: server_context(settings), settings.files, lines.log)
        admission = Admission(settings, lines.log)
        self.handshakes = Handshakes(settings.side, contexts, admission, True, lines.log, limits)
        self.accepted: list[Echo] = []
        self.port = 0

    def make(self) -> Echo:
        """A protocol for who was admitted."""
        self.accepted.append(self._protocol())
        return self.accepted[-1]


@asynccontextmanager
async def listening(
    settings: Settings,
    lines: Lines,
    limits: Limits | None = None,
    protocol: type[Echo] = Echo,
) -> AsyncIterator[Listening]:
    """Listens, and stops."""
    site = Listening(settings, lines, limits or Limits(seconds=SECONDS), protocol)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(site.handshakes.wrap(site.make), "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        site.handshakes.stop()


def dialing(settings: Settings, lines: Lines) -> Dialing:
    contexts = Reloaded(lambda: dial_context(settings), settings.files, lines.log)
    return Dialing(contexts, Admission(settings, lines.log))


async def until(done: Callable[[], bool]) -> None:
    while not done():
        await asyncio.sleep(0.01)


def test_all_bytes_pass_both_ways_in_order(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        settings = site.peers()
        content = os.urandom(5 << 20)
        async with listening(settings, lines) as listener:
            client = Collect()
            await dialing(settings, lines).connect("localhost", listener.port, client)
            for at in range(0, len(content), 700_001):
                client.transport.write(content[at : at + 700_001])
            await until(lambda: len(client.received) == len(content))
            assert client.received == content == listener.accepted[0].received
            client.transport.close()
            await listener.accepted[0].lost.wait()
            assert listener.accepted[0].error is None

    run(test())


class Collect(Echo):
    """Keeps what it gets."""

    def data_received(self, data: bytes) -> None:
        """Asyncio."""
        self.received += data


def test_what_waits_for_a_slow_reader_is_counted_and_bounds_are_told(
    run: Loop, site: Site, lines: Lines
) -> None:
    class Slow(Collect):
        told: list[str] = []

        def pause_writing(self) -> None:
            self.told.append("pause")

        def resume_writing(self) -> None:
            self.told.append("resume")

    async def test() -> None:
        settings = site.peers()
        async with listening(settings, lines) as listener:
            client = Slow()
            await dialing(settings, lines).connect("localhost", listener.port, client)
            await until(lambda: bool(listener.accepted))
            reader = listener.accepted[0]
            reader.transport.pause_reading()
            client.transport.set_write_buffer_limits(1 << 20, 1 << 18)
            client.transport.write(bytes(32 << 20))
            assert client.transport.get_write_buffer_size() > 16 << 20
            await until(lambda: client.told == ["pause"])
            await asyncio.sleep(0.05)
            assert client.transport.get_write_buffer_size() > 1 << 20
            reader.transport.resume_reading()
            await until(lambda: client.told == ["pause", "resume"])
            client.transport.abort()
            await reader.lost.wait()

    run(test())


def test_one_end_may_end_before_the_other(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        class Farewell(Collect):
            def eof_received(self) -> bool:
                self.transport.write(b"goodbye")
                asyncio.get_running_loop().call_soon(self.transport.close)
                return True

        settings = site.peers()
        async with listening(settings, lines, protocol=Farewell) as listener:
            client = Collect()
            await dialing(settings, lines).connect("localhost", listener.port, client)
            client.transport.write(b"hello")
            client.transport.write_eof()
            client.transport.write(b"nothing more")
            await client.lost.wait()
            assert client.received == b"goodbye"
            assert listener.accepted[0].received == b"hello"

    run(test())


def test_a_connection_that_is_cut_is_lost_for_its_owner(
    run: Loop, site: Site, lines: Lines
) -> None:
    async def test() -> None:
        settings = site.peers()
        async with listening(settings, lines) as listener:
            client = Collect()
            await dialing(settings, lines).connect("localhost", listener.port, client)
            await until(lambda: bool(listener.accepted))
            raw = client.transport.get_extra_info("socket")
            os.write(raw.fileno(), b"\x17\x03\x03\x00\x10" + bytes(16))  # no valid record
            await listener.accepted[0].lost.wait()
            assert isinstance(listener.accepted[0].error, ssl.SSLError)
            await client.lost.wait()

    run(test())


async def refused(listener: Listening, context: ssl.SSLContext) -> bool:
    """Whether a client with this context gets no answer."""
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", listener.port, ssl=context, server_hostname="localhost"
        )
        writer.write(b"x")
        answer = await reader.read(1)
    except OSError:
        return True
    writer.close()
    return not answer


def client_context(site: Site, name: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=site.path("ca.crt"))
    if name:
        context.load_cert_chain(site.path(f"{name}.crt"), site.path(f"{name}.key"))
    return context


def test_who_shows_no_good_certificate_is_refused_and_the_log_says_why(
    run: Loop, site: Site, lines: Lines
) -> None:
    type(site.authority).create("stranger").issue("client").write(site.folder, "stranger")
    site.write("old", "client", days=-1)
    site.write("serves", "client", client=False)
    site.write("named", "client", ["192.0.2.1"])

    async def test() -> None:
        async with listening(site.peers(), lines) as listener:
            assert not await refused(listener, client_context(site, "client"))
            for name, reason in (
                ("", "peer did not return a certificate"),
                ("stranger", "unable to get local issuer certificate"),
                ("old", "certificate has expired"),
                ("serves", "unsuitable certificate purpose"),
                ("named", "certificate is valid for 192.0.2.1, not 127.0.0.1"),
            ):
                assert await refused(listener, client_context(site, name)), name
                line = lines.all("warn")[-1]
                assert reason in line["error"], name
                assert line["msg"] == "rejected connection on peer endpoint"
                assert line["remote-addr"].startswith("127.0.0.1:")
            assert not await refused(listener, client_context(site, "client"))
        assert len(listener.accepted) == 2

    run(test())


def test_what_is_no_tls_is_refused_and_told_of(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        async with listening(site.clients(), lines) as listener:
            for sent, reason in (
                (b"GET /health HTTP/1.1\r\n\r\n", "sent an HTTP request to an HTTPS server"),
                (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "does not look like a TLS handshake"),
                (b"\x00\x00\x01\x02" + bytes(20), "does not look like a TLS handshake"),
                (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "tls: "),
                (b"\x16", "closed during the TLS handshake"),
            ):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                writer.write(sent)
                if len(sent) == 1:
                    writer.write_eof()
                with suppress(OSError):
                    await reader.read()
                writer.close()
                assert reason in lines.all("warn")[-1]["error"]
        assert not listener.accepted

    run(test())


def test_a_flood_of_the_same_makes_one_line(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        async with listening(site.clients(), lines) as listener:
            for _ in range(20):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
                with suppress(OSError):
                    await reader.read()
                writer.close()
            assert len(lines.all("warn")) == 1
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(b"\x00" * 20)
            with suppress(OSError):
                await reader.read()
            writer.close()
            assert lines.all("warn")[-1]["not-logged-before"] == 19

    run(test())


def test_silent_and_slow_handshakes_end_in_time(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        async with listening(site.clients(), lines, Limits(seconds=0.3)) as listener:
            silent = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(20)]
            silent[0][1].write(b"\x16\x03\x01")
            for reader, _ in silent:
                with suppress(OSError):
                    assert await reader.read() == b""
            assert lines.all("warn")[0]["error"] == "tls: handshake not finished in time"
            assert not await refused(listener, client_context(site))
            for _, writer in silent:
                writer.close()

    run(test())


def test_too_many_handshakes_make_room_for_new_ones(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        limits = Limits(seconds=10 * SECONDS, pending=10)
        async with listening(site.clients(), lines, limits) as listener:
            silent = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(30)]
            assert not await refused(listener, client_context(site))
            for reader, _ in silent[:20]:
                with suppress(OSError):
                    assert await reader.read() == b""
            assert lines.all("warn")[0]["error"] == "tls: too many handshakes at a time"
            assert not silent[-1][0].at_eof()
            for _, writer in silent:
                writer.close()

    run(test())


def test_a_new_certificate_and_authority_count_from_the_next_handshake_on(
    run: Loop, site: Site, lines: Lines
) -> None:
    async def serial(listener: Listening, context: ssl.SSLContext) -> str:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", listener.port, ssl=context, server_hostname="localhost"
        )
        found: str = writer.get_extra_info("peercert")["serialNumber"]
        writer.close()
        return found.lower().lstrip("0")

    async def test() -> None:
        settings = site.clients(f"--trusted-ca-file={site.path('ca.crt')}")
        async with listening(settings, lines) as listener:
            context = client_context(site, "client")
            before = await serial(listener, context)
            kept = Collect()
            await dialing(replace(settings, side="peer"), lines).connect(
                "localhost", listener.port, kept
            )
            made = site.write("server", "server", ["localhost"])
            after = await serial(listener, context)
            assert before != after == f"{made.certificate.serial_number:x}"
            Path(site.path("server.key")).write_text("half a key")
            assert await serial(listener, context) == after
            assert "server.key" in lines.all("error")[-1]["error"]
            made.write(site.folder, "server")

            other = type(site.authority).create("the next CA")
            Path(site.path("ca.crt")).write_bytes(other.credential.certificate_pem)
            assert await refused(listener, context)
            other.issue("client").write(site.folder, "next")
            context.load_cert_chain(site.path("next.crt"), site.path("next.key"))
            assert not await refused(listener, context)
            kept.transport.write(b"still here")
            await until(lambda: kept.received == b"still here")
            kept.transport.close()

    run(test())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_opens_no_door_that_its_certificate_opens_no_more(
    site: Site, lines: Lines, version: ssl.TLSVersion
) -> None:
    async def test() -> None:
        crl = Path(site.path("crl"))
        crl.write_bytes(site.authority.revocations())
        settings = site.clients(
            f"--trusted-ca-file={site.path('ca.crt')}", f"--client-crl-file={crl}"
        )
        client = site.write("client", "client")
        context = client_context(site, "client")
        context.maximum_version = version
        sessions: list[ssl.SSLSession] = []

        def connect(listener: Listening) -> str:
            address = ("127.0.0.1", listener.port)
            session = sessions[-1] if sessions else None
            with (
                socket.create_connection(address, SECONDS) as raw,
                context.wrap_socket(raw, server_hostname="localhost", session=session) as secure,
            ):
                secure.sendall(b"x")
                if not secure.recv(1):
                    return "refused"
                if secure.session is not None:
                    sessions.append(secure.session)
                return "resumed" if secure.session_reused else "served"

        async def outcome(listener: Listening) -> str:
            try:
                return await asyncio.to_thread(connect, listener)
            except OSError:
                return "refused"

        async with listening(settings, lines) as listener:
            again = "resumed" if version is ssl.TLSVersion.TLSv1_2 else "served"
            assert [await outcome(listener) for _ in range(2)] == ["served", again]
            site.authority.revoke(client)
            crl.write_bytes(site.authority.revocations())
            assert await outcome(listener) == "refused"
            site.authority.revoked.clear()
            crl.write_bytes(site.authority.revocations())
            assert await outcome(listener) != "refused"
            other = type(site.authority).create("the next CA")
            Path(site.path("ca.crt")).write_bytes(other.credential.certificate_pem)
            assert await outcome(listener) == "refused"

    on_uvloop(test())


def test_a_user_is_who_the_certificate_says(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        asks = f"--trusted-ca-file={site.path('ca.crt')}"
        for settings, name, expected in (
            (site.clients(asks), "client", "client"),
            (site.clients(), "client", None),
            (site.clients(asks), "nameless", None),
        ):
            site.write("nameless", "")
            async with listening(settings, lines) as listener:
                assert not await refused(listener, client_context(site, name))
                (echo,) = listener.accepted
                assert echo.transport.get_extra_info("common_name") == expected
                echo.transport.names_user = False
                assert echo.transport.get_extra_info("common_name") is None

    run(test())


def test_only_who_proves_to_be_the_host_is_dialed(run: Loop, site: Site, lines: Lines) -> None:
    site.write("elsewhere", "elsewhere", ["elsewhere.example", "192.0.2.1"])
    type(site.authority).create("x").issue("server", ["localhost"]).write(site.folder, "stranger")

    async def test() -> None:
        settings = site.peers("--peer-skip-client-san-verification")
        for name, reason in (
            ("elsewhere", "Hostname mismatch"),
            ("stranger", "unable to get local issuer certificate"),
        ):
            served = replace(
                settings,
                cert_file=site.path(f"{name}.crt"),
                key_file=site.path(f"{name}.key"),
                trusted_ca_file="",
            )
            async with listening(served, lines) as listener:
                for host in ("localhost", "127.0.0.1"):
                    with pytest.raises(ConnectionError) as caught:
                        await dialing(settings, lines).connect(host, listener.port, Collect())
                    mismatch = "IP address mismatch" if host != "localhost" else "Hostname mismatch"
                    wanted = mismatch if name == "elsewhere" else reason
                    assert wanted in str(caught.value)
                assert not listener.accepted

    run(test())


def test_who_is_dialed_must_have_an_allowed_name_too(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        skip = "--peer-skip-client-san-verification"
        async with listening(site.peers(skip), lines) as listener:
            for name, good in (("server", True), ("other", False)):
                settings = site.peers(skip, f"--peer-cert-allowed-cn={name}")
                client = Collect()
                connecting = dialing(settings, lines).connect("localhost", listener.port, client)
                if good:
                    await connecting
                    client.transport.close()
                else:
                    with pytest.raises(OSError, match="certificate authentication failed"):
                        await connecting

    run(test())


def test_who_waits_to_be_admitted_is_not_read_from(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        context = server_context(site.clients())
        shaken: asyncio.Future[TlsTransport] = asyncio.get_running_loop().create_future()
        server = await asyncio.get_running_loop().create_server(
            lambda: TlsTransport(context, lambda _: None, lambda made, _: shaken.set_result(made)),
            "127.0.0.1",
            0,
        )
        port = server.sockets[0].getsockname()[1]
        client = Collect()
        settings = site.peers("--peer-skip-client-san-verification")
        await dialing(settings, lines).connect("localhost", port, client)
        accepted = await shaken
        client.transport.write(bytes(32 << 20))
        waiting = -1
        while waiting != (waiting := client.transport.get_write_buffer_size()):
            await asyncio.sleep(0.2)  # the kernel's buffers fill
        assert waiting > 16 << 20
        admitted = Collect()
        accepted.open(admitted)
        await until(lambda: len(admitted.received) == 32 << 20)
        client.transport.close()
        server.close()

    run(test())


def test_nothing_is_made_for_who_is_gone_before_the_address_is_checked(
    run: Loop, site: Site, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        checking, left = asyncio.Event(), asyncio.Event()

        async def check_address(_: Admission, __: ssl.SSLObject, ___: str) -> None:
            checking.set()
            await left.wait()

        monkeypatch.setattr(Admission, "check_address", check_address)
        settings = site.peers()
        async with listening(settings, lines) as listener:
            client = Collect()
            await dialing(settings, lines).connect("localhost", listener.port, client)
            await checking.wait()
            pending = listener.handshakes._pending
            next(iter(pending)).abort()  # as after a reset
            await client.lost.wait()
            left.set()
            await until(lambda: not pending)
            assert not listener.accepted
            other = Collect()
            await dialing(settings, lines).connect("localhost", listener.port, other)
            await until(lambda: len(listener.accepted) == 1)
            other.transport.close()

    run(test())


def test_a_plain_port_that_is_dialed_is_said_to_be_one(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError, match="does not look like a TLS handshake"):
            await dialing(site.peers(), lines).connect("localhost", port, Collect())
        server.close()

    run(test())


def test_a_dialer_uses_the_certificate_that_its_files_have_now(
    run: Loop, site: Site, lines: Lines
) -> None:
    async def test() -> None:
        settings = site.peers()
        async with listening(settings, lines) as listener:
            dials = dialing(settings, lines)
            serials: list[str] = []
            for _ in range(2):
                client = Collect()
                await dials.connect("localhost", listener.port, client)
                count = len(serials) + 1
                await until(lambda count=count: len(listener.accepted) == count)  # type: ignore[misc]
                shown = listener.accepted[-1].transport.ssl.getpeercert() or {}
                serials.append(str(shown["serialNumber"]))
                client.transport.close()
                site.write("server", "server", ["localhost", "127.0.0.1"])
            assert serials[0] != serials[1]

    run(test())


def test_a_thread_can_take_a_connection_over_and_give_it_back(
    run: Loop, site: Site, lines: Lines
) -> None:
    async def test() -> None:
        settings = site.peers()
        content = os.urandom(3 << 20)
        async with listening(settings, lines) as listener:
            client = Collect()
            await dialing(settings, lines).connect("localhost", listener.port, client)
            await until(lambda: bool(listener.accepted))
            other = listener.accepted[0].transport
            other.write(b"from the loop")
            await until(lambda: client.received == b"from the loop")

            def use() -> bytes:
                taken = client.transport.take_over()
                taken.settimeout(SECONDS)
                done = threading.Thread(target=taken.sendall, args=(content,))
                done.start()
                received, buffer = bytearray(), memoryview(bytearray(100_000))
                while len(received) < len(content):
                    received += buffer[: taken.recv_into(buffer)]
                done.join()
                taken.close()
                return bytes(received)

            assert await asyncio.to_thread(use) == content
            client.transport.write(b"the loop again")
            await until(lambda: listener.accepted[0].received.endswith(b"the loop again"))
            client.transport.close()
            await listener.accepted[0].lost.wait()

    run(test())


def test_who_has_taken_over_hears_of_the_end(run: Loop, site: Site, lines: Lines) -> None:
    async def test() -> None:
        settings = site.peers()
        async with listening(settings, lines) as listener:
            for ends in ("close", "abort", "silent"):
                client = Collect()
                await dialing(settings, lines).connect("localhost", listener.port, client)
                count = ("close", "abort", "silent").index(ends) + 1
                await until(lambda count=count: len(listener.accepted) == count)  # type: ignore[misc]
                taken = client.transport.take_over()
                taken.settimeout(0.2 if ends == "silent" else SECONDS)
                reading = asyncio.create_task(
                    asyncio.to_thread(taken.recv_into, memoryview(bytearray(10)))
                )
                if ends == "silent":
                    with pytest.raises(TimeoutError):
                        await reading
                else:
                    getattr(listener.accepted[-1].transport, ends)()
                    assert await reading == 0
                taken.close()
                client.transport.abort()

    run(test())

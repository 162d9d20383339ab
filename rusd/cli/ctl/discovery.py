"""`--discovery-srv`: the members' addresses out of DNS, from the SRV records of etcd's clients."""

from typing import Final

from rusd.cli.ctl.errors import Exit
from rusd.cli.ctl.settings import Settings

_SERVICES: Final = (("etcd-client-ssl", "https"), ("etcd-client", "http"))


def discovered(settings: Settings) -> tuple[str, ...]:
    """Return the endpoints below a domain, those with TLS first; raise Exit where there is none.

    Those of a service are in RFC 2782's order: by priority, and by chance as their weights are.
    """
    try:
        from dns.exception import DNSException
        from dns.rdtypes.IN.SRV import SRV
        from dns.resolver import resolve
    except ModuleNotFoundError:
        raise Exit("--discovery-srv needs dnspython: pip install 'rusd[client]'") from None
    found: list[str] = []
    errors: list[str] = []
    kind = f"-{settings.discovery_srv_name}" if settings.discovery_srv_name else ""
    for service, scheme in _SERVICES:
        name = f"_{service}{kind}._tcp.{settings.discovery_srv}"
        try:
            answer = resolve(name, "SRV", search=True, lifetime=settings.command_timeout)
        except DNSException as error:
            errors.append(f"lookup {name}: {error}")
            continue
        assert answer.rrset is not None, name
        for record in answer.rrset.processing_order():
            assert isinstance(record, SRV), record
            host = record.target.to_text(omit_final_dot=True)
            if host != ".":  # RFC 2782: the service is decidedly not there
                found.append(f"{scheme}://{host}:{record.port}")
    if len(errors) == len(_SERVICES):
        raise Exit(f"dns lookup errors: {' and '.join(errors)}")
    if not settings.insecure_discovery:
        found = [each for each in found if each.startswith("https:")]
    if not found:
        # etcdctl goes to --endpoints then, which has a default that nobody meant.
        secure = "" if settings.insecure_discovery else " with TLS"
        raise Exit(f"no member{secure} in the SRV records of {settings.discovery_srv}")
    return tuple(found)

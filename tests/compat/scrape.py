"""/metrics of a member, read with Prometheus' own parser."""

import urllib.request
from dataclasses import dataclass
from urllib.error import HTTPError

from prometheus_client.parser import text_string_to_metric_families

from tests.members import Member

SECONDS = 30.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one scrape said."""

    types: dict[str, str]
    """By the name that a query has, which for counters is with `_total`, if etcd has that."""
    samples: dict[str, list[tuple[dict[str, str], float]]]
    """By name: labels and value."""

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels; there is one at least."""
        found = [
            value for has, value in self.samples.get(name, ()) if labels.items() <= has.items()
        ]
        assert found, f"no sample of {name} {labels}"
        return sum(found)

    def labels(self, name: str) -> set[frozenset[str]]:
        """The names of labels that a metric's samples have."""
        return {
            frozenset(has)
            for sample in (name, f"{name}_bucket")
            for has, _ in self.samples.get(sample, ())
        }


def scrape(port: int) -> Scrape:
    """Asks the member on a port."""
    try:
        with _direct.open(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as answer:
            kind, text = answer.headers["Content-Type"], answer.read().decode()
    except HTTPError as error:
        raise AssertionError(f"{error}: {error.read()!r}") from error
    assert kind.startswith("text/plain; version=0.0.4"), kind
    return parse(text)


def of(member: Member) -> Scrape:
    """On its client URL."""
    return scrape(member.client_port)


def parse(text: str) -> Scrape:
    """The text of a scrape."""
    types, samples = dict[str, str](), dict[str, list[tuple[dict[str, str], float]]]()
    declared = {line.split()[2]: line.split()[3] for line in text.splitlines() if "# TYPE" in line}
    for family in text_string_to_metric_families(text):
        # The parser takes `_total` off counters.
        name = family.name if family.name in declared else f"{family.name}_total"
        types[name] = declared[name]
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return Scrape(types, samples)

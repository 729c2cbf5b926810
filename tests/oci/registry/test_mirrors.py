"""Mirrors: asked first, believed in nothing that a digest does not say."""

import pytest

from tests.oci.registry.kit import MANIFEST, Notices, client, digest_of, manifest, pull
from tests.oci.registry.scripted import Exchange, scripted


class TestMirrors:
    def test_a_mirror_is_asked_first(self) -> None:
        with scripted(manifest) as mirror, scripted(manifest) as server:
            with client(server, mirrors=self.of(server.host, mirror.host, "hub")) as registry:
                assert pull(registry) == MANIFEST
            assert mirror.paths() == ["/v2/hub/a/manifests/1"] and server.paths() == []

    @pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 418])
    def test_a_mirror_that_has_it_not_is_passed_over(self, status: int) -> None:
        notices = Notices()
        with scripted(lambda exchange: exchange.error(status)) as mirror, scripted(manifest) as server:
            with client(server, notices, mirrors=self.of(server.host, mirror.host)) as registry:
                assert pull(registry) == MANIFEST
            assert mirror.paths() and server.paths() == ["/v2/a/manifests/1"]
        assert any(f"{server.host} is asked instead" in notice for notice in notices)

    def test_a_mirror_that_is_away_is_passed_over(self) -> None:
        with scripted(manifest) as mirror:
            pass
        with scripted(manifest) as server, client(server, mirrors=self.of(server.host, mirror.host)) as registry:
            assert pull(registry) == MANIFEST

    def test_a_mirror_cannot_lie_about_a_digest(self) -> None:
        with (
            scripted(lambda exchange: exchange.reply(200, b"{}")) as mirror,
            scripted(manifest) as server,
            client(server, mirrors=self.of(server.host, mirror.host)) as registry,
        ):
            assert pull(registry, digest_of(MANIFEST)) == MANIFEST
            assert mirror.requests

    def test_the_login_of_the_command_line_is_not_the_mirrors(self) -> None:
        def handle(exchange: Exchange) -> None:
            if exchange.seen.authorization is None:
                exchange.error(401, WWW_Authenticate="Basic realm=x")
            else:
                manifest(exchange)

        with scripted(handle) as mirror, scripted(handle) as server:
            mirrors = self.of(server.host, mirror.host)
            with client(server, mirrors=mirrors, username="ann", password="s3cret") as registry:
                assert pull(registry) == MANIFEST
            assert all(seen.authorization is None for seen in mirror.requests)

    def test_mirrors_of_other_registries_are_not_asked(self) -> None:
        with scripted(manifest) as mirror, scripted(manifest) as server:
            with client(server, mirrors=self.of("docker.io", mirror.host)) as registry:
                assert pull(registry) == MANIFEST
            assert mirror.requests == []

    @staticmethod
    def of(registry: str, host: str, prefix: str = "") -> tuple[object, ...]:
        from lamina.oci.registry.options import Mirror

        return (Mirror(registry, host, prefix, plain_http=True),)

"""How each source registry behaves, as its documentation or a published exchange with it says."""

from __future__ import annotations

from dataclasses import dataclass

GOOGLE_KEY = """{
  "type": "service_account",
  "project_id": "contoso",
  "private_key": "-----BEGIN PRIVATE KEY-----\\nMIIEvQ:IBADANBg%s==\\n-----END PRIVATE KEY-----\\n",
  "client_email": "puller@contoso.iam.gserviceaccount.com"
}""" % ("kqhkiG9w0BAQEFAASCBKcwggSj" * 70)
"""A password as Google Artifact Registry takes it beside the user name ``_json_key``: several
lines, and as long as a real key."""

S3 = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&X-Amz-Credential=AKIA%2F20260801%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20260801T120000Z&X-Amz-Expires=600&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}"
)
CLOUDFRONT = "Expires=1785590000&Signature={signature}~x-__&Key-Pair-Id=APKAIVAVKHB6SNHJAJQQ"
AZURE = "se=2026-08-01T12%3A20%3A00Z&sig={signature}%2BQ%3D&sp=r&spr=https&sr=b&sv=2018-03-28&regid=b2e1"
GOOGLE = (
    "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=sa%40contoso.iam.gserviceaccount.com%2F20260801%2Fauto%2Fstorage%2Fgoog4_request"
    "&X-Goog-Date=20260801T120000Z&X-Goog-Expires=1200&X-Goog-SignedHeaders=host&X-Goog-Signature={signature}"
)


@dataclass(frozen=True, slots=True)
class Profile:
    """How one registry behaves."""

    login_server: str
    api: str
    """The host that answers ``/v2/``."""
    public: str
    """A repository for everyone, as it is called there."""
    private: str
    """A repository for a user."""
    blobs: str
    """The host to which a GET of a blob is redirected."""
    query: str = ""
    """Of the presigned address; empty: none."""
    redirects_with: int = 307
    realm: str = ""
    """Where it gives tokens; empty: it never asks for any."""
    service: str = ""
    """The name that the challenge gives it; empty: none."""
    scope: str = "repository:{repository}:pull"
    token_fields: tuple[str, ...] = ("token",)
    expires_in: int | None = None
    token_size: int = 1_200
    """In bytes."""
    anonymous: bool = True
    """Whether everyone gets a token."""
    username: str = "puller"
    password: str = "correct-horse-battery-staple"
    denies_with: int = 401
    """The status of the token service for wrong credentials."""
    hides: str = ""
    """What an anonymous client hears of a repository that is not there, or not for it: ``registry``
    or ``token``, whichever answers 401; empty: 404, or 401."""
    basic_is_bad: bool = False
    """Basic credentials at the registry itself get 400."""
    realm_for_bad_tokens: str = ""
    """Another realm that the challenge names to a client whose token is not good."""
    allowance: int | None = None
    """Manifests that it gives for nothing more than this."""
    manifests: str = ""
    """Host and path to which a request for a manifest is redirected; empty for no redirect."""

    @property
    def name(self) -> str:
        """Of rules and credential sets."""
        return self.api.replace(".", "-")

    @property
    def hosts(self) -> tuple[str, ...]:
        """All of its hosts, once each."""
        realms = (each.split("/")[2] for each in (self.realm, self.realm_for_bad_tokens) if each)
        return tuple(
            dict.fromkeys(
                (
                    self.api,
                    *realms,
                    self.blobs,
                    *([self.manifests.partition("/")[0]] if self.manifests else []),
                )
            )
        )


PROFILES = (
    # docs.docker.com: "Registry authentication" (token and access_token, expires_in 300), "Pull
    # usage and limits" (both headers on GET and HEAD, and only GETs count), "Allowlist for Docker
    # Desktop" (the host of blobs, June 2026). A repository that is not there is 401 (distribution
    # issue 4477).
    Profile(
        "docker.io",
        "registry-1.docker.io",
        "library/alpine",
        "acme/api",
        "production.cloudfront.docker.com",
        CLOUDFRONT,
        realm="https://auth.docker.io/token",
        service="registry.docker.io",
        token_fields=("token", "access_token"),
        expires_in=300,
        token_size=4_200,
        hides="registry",
        allowance=100,
    ),
    # docs.docker.com: "Use a Docker Hardened Image" (a sign-in is needed). Errors published by its
    # users show https://dhi.io/token with the service of Hub; it answers 401 to the anonymous. The
    # host of its blobs is taken to be Hub's.
    Profile(
        "dhi.io",
        "dhi.io",
        "python",
        "python-private",
        "production.cloudfront.docker.com",
        CLOUDFRONT,
        realm="https://dhi.io/token",
        service="registry.docker.io",
        token_fields=("token", "access_token"),
        expires_in=300,
        anonymous=False,
    ),
    # Azure/acr, docs/AAD-OAuth.md: access_token and nothing else; Azure/acr issue 217: the blob
    # store answers 400 when an Authorization header comes along.
    Profile(
        "contoso.azurecr.io",
        "contoso.azurecr.io",
        "base/alpine",
        "team/api",
        "weumanaged42.blob.core.windows.net",
        AZURE,
        realm="https://contoso.azurecr.io/oauth2/token",
        service="contoso.azurecr.io",
        token_fields=("access_token",),
        anonymous=False,
        username="11111111-2222-3333-4444-555555555555",
    ),
    # microsoft/containerregistry, docs/mcr-endpoints-guidance.md and client-firewall-rules.md:
    # everyone may pull, and *.data.mcr.microsoft.com has the blobs.
    Profile(
        "mcr.microsoft.com",
        "mcr.microsoft.com",
        "dotnet/runtime",
        "dotnet/internal",
        "westeurope.data.mcr.microsoft.com",
        AZURE,
    ),
    # docs.aws.amazon.com, "Registry authentication in Amazon ECR public"; aws/containers-roadmap
    # issue 1806: 401 without a token; dependabot/proxy issue 157: 400 for Basic credentials.
    Profile(
        "public.ecr.aws",
        "public.ecr.aws",
        "docker/library/alpine",
        "ecr/api",
        "d2glxqk2uabbnd.cloudfront.net",
        CLOUDFRONT,
        realm="https://public.ecr.aws/token/",
        service="public.ecr.aws",
        scope="aws",
        token_size=2_800,
        basic_is_bad=True,
    ),
    # docs.github.com, "Working with the Container registry". Published exchanges: its token service
    # answers 401 to the anonymous for what is private or not there (openai/tunnel-client issue 75)
    # and 403 to wrong credentials (coollabsio/coolify issue 5575).
    Profile(
        "ghcr.io",
        "ghcr.io",
        "acme/open",
        "acme/closed",
        "pkg-containers.githubusercontent.com",
        AZURE,
        realm="https://ghcr.io/token",
        service="ghcr.io",
        token_size=60,
        denies_with=403,
        hides="token",
    ),
    # docs.quay.io and quay/quay, endpoints/v2/v2auth.py (token and nothing else); quay/quay-docs
    # issue 149: the hosts of blobs.
    Profile(
        "quay.io",
        "quay.io",
        "prometheus/node-exporter",
        "acme/quay-api",
        "cdn01.quay.io",
        S3,
        redirects_with=302,
        realm="https://quay.io/v2/auth",
        service="quay.io",
        hides="registry",
        username="acme+robot",
    ),
    # kubernetes/registry.k8s.io, cmd/archeio/docs/request-handling.md: no token, /v2/ answers 200,
    # and everything else is redirected: manifests to Artifact Registry of a region, blobs to a
    # bucket of S3 that is open to all.
    Profile(
        "registry.k8s.io",
        "registry.k8s.io",
        "pause",
        "sig-storage/livenessprobe",
        "prod-registry-k8s-io-eu-west-1.s3.dualstack.eu-west-1.amazonaws.com",
        manifests="europe-west4-docker.pkg.dev/v2/k8s-artifacts-prod/images",
    ),
    # cloud.google.com, "Configure authentication to Artifact Registry for Docker".
    # ahmetb/serverless-registry-proxy issue 8: blobs are redirected to a long signed path of the
    # same host. seqeralabs/wave pull request 157: the challenge names no service.
    Profile(
        "europe-docker.pkg.dev",
        "europe-docker.pkg.dev",
        "contoso/base/alpine",
        "contoso/images/api",
        "europe-docker.pkg.dev",
        redirects_with=302,
        realm="https://europe-docker.pkg.dev/v2/token",
        expires_in=3_600,
        anonymous=False,
        username="_json_key",
        password=GOOGLE_KEY,
    ),
    # cloud.google.com, "Container Registry"; davedoesdev/dxf issue 28: realm and service. Its
    # anonymous tokens live for 43,200 s.
    Profile(
        "gcr.io",
        "gcr.io",
        "distroless/static",
        "contoso/api",
        "storage.googleapis.com",
        GOOGLE,
        redirects_with=302,
        realm="https://gcr.io/v2/token",
        service="gcr.io",
        expires_in=43_200,
        username="_json_key",
        password=GOOGLE_KEY,
    ),
    # docs.nvidia.com, "NGC User Guide" ($oauthtoken). sapcc/keppel pull request 731: the challenge
    # names no service, and tokens live for 600 s. NVIDIA/nvidia-container-toolkit issue 1945:
    # a client with a bad token is sent to another realm, which gives the anonymous nothing.
    Profile(
        "nvcr.io",
        "nvcr.io",
        "nvidia/k8s-device-plugin",
        "acme/ngc-api",
        "layers.nvcr.io",
        CLOUDFRONT,
        realm="https://nvcr.io/proxy_auth",
        expires_in=600,
        username="$oauthtoken",
        realm_for_bad_tokens="https://authn.nvidia.com/token",
    ),
    # access.redhat.com, "Red Hat Container Registry Authentication": no pull without a sign-in. The
    # challenge is as published in July 2026; blobs come from Quay's hosts.
    Profile(
        "registry.redhat.io",
        "registry.redhat.io",
        "ubi9/ubi",
        "rhel9/toolbox",
        "cdn01.quay.io",
        S3,
        redirects_with=302,
        realm="https://registry.redhat.io/auth/realms/rhcc/protocol/redhat-docker-v2/auth",
        service="docker-registry",
        token_fields=("token", "access_token"),
        expires_in=60,
        token_size=1_900,
        anonymous=False,
        username="7654321|puller",
    ),
    # access.redhat.com, the same page: no sign-in here.
    Profile(
        "registry.access.redhat.com",
        "registry.access.redhat.com",
        "ubi9/ubi-minimal",
        "ubi9/internal",
        "cdn01.quay.io",
        S3,
        redirects_with=302,
    ),
)
"""In the order of ACR's documentation."""

"""How each tool asks, with `{url}` for the site: what it prints when it got an answer."""

from __future__ import annotations

from dataclasses import dataclass

from tests.tools.site import GREETING


@dataclass(frozen=True, slots=True)
class Tool:
    """A script for `bash -c`; `bare` says that it works without a single variable of ours too. `refusal` is how it puts
    a refusal, and `calls_home` says that it tries its maker's hosts besides."""

    script: str
    answer: str = GREETING
    refusal: str = "403"
    bare: bool = False
    calls_home: bool = False


REFUSED = "the network policy refuses"  # the words of the refusal itself


def python(code: str, interpreter: str = "python3") -> str:
    """Return the script that runs Python code with the site as its first argument."""
    return f"{interpreter} -c '{code}' {{url}}/"


URLLIB = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
S_CLIENT = r"""
place={url}; place=${place#https://}; host=${place%%:*}; port=443
[ "$host" = "$place" ] || port=${place##*:}
printf "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" "$place" |
    openssl s_client -quiet -verify_return_error -servername "$host" -connect "$host:$port" 2>&1
"""
NODE_FETCH = "fetch(process.argv[1]).then(async r => console.log(r.status, await r.text()))"
NODE_HTTPS = (
    'require("https").get(process.argv[1], r => { console.log(r.statusCode); r.on("data", d => console.log(`${d}`)) })'
)
VENV = "~/tools/bin/python"
REQUESTS = "import requests, sys; r = requests.get(sys.argv[1], timeout=60); print(r.status_code, r.text)"
HTTPX = "import httpx, sys; r = httpx.get(sys.argv[1], timeout=60); print(r.status_code, r.text)"
URLLIB3 = 'import sys, urllib3; r = urllib3.PoolManager().request("GET", sys.argv[1]); print(r.status, r.data.decode())'
AIOHTTP = """
import aiohttp, asyncio, sys
async def main():
    async with aiohttp.ClientSession() as session, session.get(sys.argv[1]) as answer:
        print(answer.status, await answer.text())
asyncio.run(main())
"""
JAVA = """cat >Get.java <<'END'
import java.net.*;
import java.net.http.*;
class Get {
    public static void main(String[] words) throws Exception {
        System.out.println(((HttpURLConnection) new URL(words[0]).openConnection()).getResponseCode());
        var request = HttpRequest.newBuilder(URI.create(words[0])).build();
        System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
END
java Get.java {url}/"""

WEBSOCKET = """
import sys
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
try:
    with connect(sys.argv[1].replace("https:", "wss:")) as socket:
        print(socket.recv(60))
except InvalidStatus as error:
    print(error.response.status_code, error.response.body.decode())
"""
HTTPLIB2 = "import httplib2, sys; r, text = httplib2.Http().request(sys.argv[1]); print(r.status, text.decode())"
BOTOCORE = """
import sys, botocore.session
from botocore.config import Config
from botocore import UNSIGNED
settings = Config(signature_version=UNSIGNED, retries={"max_attempts": 0})
client = botocore.session.get_session().create_client("sts", "eu-north-1", endpoint_url=sys.argv[1], config=settings)
try:
    words = {"RoleArn": "a" * 20, "RoleSessionName": "me", "WebIdentityToken": "none"}
    print(client.assume_role_with_web_identity(**words)["Audience"])
except client.exceptions.ClientError as error:
    print(error)
"""
RUBY = """ruby -rnet/http -e 'r = Net::HTTP.get_response(URI(ARGV[0])); puts r.code, r.body' {url}/"""
PERL = """perl -MLWP::UserAgent -e '$r = LWP::UserAgent->new->get(shift); print $r->code, $r->decoded_content' {url}/"""
PHP = """php -r 'echo file_get_contents($argv[1], false, stream_context_create(["http" => ["ignore_errors" => true]]));
echo $http_response_header[0];' {url}/"""
GO = "GOPROXY={url}/go GONOSUMDB=* GOFLAGS=-mod=mod go list -m -versions example.com/sample 2>&1"
CARGO = "CARGO_REGISTRIES_SITE_INDEX=sparse+{url}/crates/ cargo search sample --registry site 2>&1"
NSS = r"""
place={url}; place=${place#https://}; host=${place%%:*}; port=443
[ "$host" = "$place" ] || port=${place##*:}
printf "GET / HTTP/1.0\r\nHost: %s\r\n\r\n" "$place" |
    timeout 15 tstclnt -h "$host" -p "$port" -d sql:$HOME/.pki/nssdb -V tls1.2: 2>&1
true  # it does not end by itself where its input ends before the answer
"""

IN_THE_TEMPLATE = {
    "curl": Tool("curl -sS -w '%{http_code}' {url}/", bare=True),
    "git": Tool("git ls-remote {url}/repo.git", "refs/heads/main", bare=True),
    "python urllib": Tool(python(URLLIB), bare=True),
    "node https": Tool(f"node -e '{NODE_HTTPS}' {{url}}/"),
    "openssl": Tool(S_CLIENT, bare=True),
}

SLOWER = {
    "pip": Tool(
        "python3 -m pip index versions sample --no-cache-dir --index-url {url}/simple/",
        "(1.0)",
        "No matching distribution found",
        bare=True,
    ),
    "node fetch": Tool(f"node -e '{NODE_FETCH}' {{url}}/"),
    "npm": Tool("npm view sample version --registry {url}/ --fetch-retries 0", "1.0.0"),
    "apt": Tool("/usr/lib/apt/apt-helper download-file {url}/ got 2>&1 && cat got; rm -f got", bare=True),
}

TO_INSTALL = {
    "wget": Tool("wget -S -O- {url}/ 2>&1", bare=True),
    "requests": Tool(python(REQUESTS, VENV)),
    "httpx": Tool(python(HTTPX, VENV)),
    "urllib3": Tool(python(URLLIB3, VENV), bare=True),
    "aiohttp": Tool(python(AIOHTTP, VENV), bare=True),
    "uv": Tool(
        "echo sample | ~/tools/bin/uv pip compile --no-cache --default-index {url}/simple/ - 2>&1", "sample==1.0"
    ),
    "pnpm": Tool("cd ~ && pnpm view sample version --registry {url}/ 2>&1", "1.0.0"),
    "bun fetch": Tool(f"bun -e '{NODE_FETCH}' {{url}}/"),
    "deno fetch": Tool("deno eval 'const r = await fetch(\"{url}/\"); console.log(r.status, await r.text())'"),
    "node 24 fetch": Tool(f"~/node24/node_modules/.bin/node -e '{NODE_FETCH}' {{url}}/"),
    "java": Tool(JAVA, bare=True),
    "a newer pip": Tool(
        f"{VENV} -m pip index versions sample --no-cache-dir --index-url {{url}}/simple/",
        "(1.0)",
        "No matching distribution found",
        bare=True,
    ),
    "websockets": Tool(python(WEBSOCKET, VENV), bare=True),
    "httplib2": Tool(python(HTTPLIB2, VENV)),
    "botocore": Tool(python(BOTOCORE, VENV), refusal=REFUSED),
    "bun info": Tool(
        "mkdir -p ~/bunned && cd ~/bunned && echo '{}' >package.json && "
        "BUN_CONFIG_REGISTRY={url}/ bun info sample version 2>&1",
        "1.0.0",
    ),
    "ruby": Tool(RUBY, bare=True),
    "perl": Tool(PERL),
    "php": Tool(PHP, bare=True),
    "go": Tool(GO, "v1.0.0", bare=True),
    "cargo": Tool(CARGO, 'sample = "1.0.0"', bare=True),
    "nss": Tool(NSS, bare=True),
    "chromium": Tool(
        "chromium --headless=new --no-sandbox --disable-gpu --disable-component-update --disable-background-networking "
        "--dump-dom {url}/",
        refusal=REFUSED,
        bare=True,
        calls_home=True,
    ),
}
APT = "apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io"
INSTALLATION = (
    # Templates built without manual pages lack the folder that the Java package links its own into.
    f"mkdir -p /usr/share/man/man1 && apt-get update -q && {APT} openjdk-17-jdk-headless",
    f"{APT} wget ruby liblwp-protocol-https-perl php-cli libnss3-tools",
    f"{APT} golang-go",
    f"{APT} cargo-web",
    f"{APT} chromium",
    "apt-get install -q -y --reinstall ca-certificates",
    "npm install -g --silent pnpm bun deno",
    "sudo -u agent sh -c 'npm install --silent --prefix ~/node24 node@24'",
    "sudo -u agent sh -c 'python3 -m venv ~/tools && ~/tools/bin/pip install -q -U "
    "pip requests httpx urllib3 aiohttp uv websockets httplib2 botocore'",
)

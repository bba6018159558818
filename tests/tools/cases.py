"""How each tool asks, with `{url}` for the site: what it prints when it got an answer."""

from __future__ import annotations

from dataclasses import dataclass

from tests.tools.site import GREETING


@dataclass(frozen=True, slots=True)
class Tool:
    """A script for `bash -c`; `bare` says that it works without a single variable of ours too. `refusal` is how it puts
    a refusal."""

    script: str
    answer: str = GREETING
    refusal: str = "403"
    bare: bool = False


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
}
INSTALLATION = (
    # Templates built without manual pages lack the folder that the Java package links its own into.
    "mkdir -p /usr/share/man/man1 && apt-get update -q && "
    "apt-get install -q -y --no-install-recommends wget openjdk-17-jdk-headless",
    "apt-get install -q -y --reinstall ca-certificates",
    "npm install -g --silent pnpm bun deno",
    "sudo -u agent sh -c 'npm install --silent --prefix ~/node24 node@24'",
    "sudo -u agent sh -c 'python3 -m venv ~/tools && ~/tools/bin/pip install -q requests httpx urllib3 aiohttp uv'",
)

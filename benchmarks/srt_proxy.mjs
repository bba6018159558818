// sandbox-runtime's own HTTP proxy, as its manager starts it, with one allowed host and a line in a log for each decision.
// usage: node srt_proxy.mjs MODULE PORT ALLOWED_HOST
import { pathToFileURL } from 'node:url';

const [module, port, allowed] = process.argv.slice(2);
const { createHttpProxyServer } = await import(pathToFileURL(module).href);
const server = createHttpProxyServer({
    filter(port, host) {
        const verdict = host === allowed;
        process.stdout.write(`${new Date().toISOString()} ${verdict ? 'allow' : 'deny'} ${host}:${port}\n`);
        return verdict;
    },
});
server.listen(Number(port), '127.0.0.1');

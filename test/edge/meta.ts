// Meta's side, for test/t/edge.pl: sends each delivery of a file, signed, until it is answered with 200, several at a
// time; then all again and again, each time in another order, until a file of the name STOP is there.
//   meta.ts URL FILE SECRET STOP CONCURRENCY
// Prints what was sent and how it was answered, as JSON.
import { createHmac } from "node:crypto";

const [url, file, secret, stop, concurrency] = Deno.args;

/** Meta writes ASCII only, and a slash as \/. */
const escape = (char: string) => "\\u" + char.charCodeAt(0).toString(16).padStart(4, "0");
const write = (value: unknown) => JSON.stringify(value).replaceAll("/", "\\/").replace(/[^\0-\x7f]/g, escape);

const bodies = (await Deno.readTextFile(file)).trimEnd().split("\n")
  .map((line) => JSON.parse(line))
  .map(({ raw, payload }) => raw ?? write(payload));
const statuses: Record<string, number> = {};
let requests = 0;
let duplicates = 0; // deliveries that were sent though they had been answered with 200
let interrupted = 0; // requests to which no answer came

async function send(body: string): Promise<void> {
  const signature = "sha256=" + createHmac("sha256", secret).update(body).digest("hex");
  for (;;) {
    requests++;
    let status = 0;
    try {
      const response = await fetch(url, { method: "POST", body, headers: { "X-Hub-Signature-256": signature } });
      status = response.status;
      await response.body?.cancel();
    } catch {
      interrupted++;
    }
    if (status) statuses[status] = (statuses[status] ?? 0) + 1;
    if (status === 200) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** All once, in an order that is another each time. */
async function sendAll(): Promise<void> {
  const order = bodies.map((body) => ({ body, at: Math.random() })).sort((a, b) => a.at - b.at);
  await Promise.all(Array.from({ length: Number(concurrency) }, async () => {
    for (let next; (next = order.pop());) await send(next.body);
  }));
}

await sendAll();
do {
  await sendAll();
  duplicates += bodies.length;
} while (!await Deno.stat(stop).catch(() => null));
console.log(JSON.stringify({ deliveries: bodies.length, requests, duplicates, interrupted, statuses }));

// A service over HTTP: wahook's worker posts it the waiting messages of a conversation, in order, and takes its answer.
//   SIGNING_SECRET=whsec_... PORT=8080 node http-service.mjs
// 2xx: all are processed. 5xx, 408, 425, 429, or no answer in time: all come again later; Retry-After is heeded. Other
// answers give them up. To have them recorded one by one, complete and fail them with the lock id, as the pull worker does.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const key = Buffer.from((process.env.SIGNING_SECRET ?? "").replace(/^whsec_/, ""), "base64");
const maxBody = 16 * 1024 * 1024;
const log = (event, fields) => console.log(JSON.stringify({ time: new Date().toISOString(), event, ...fields }));

/** What the service does with a message: the function to edit. */
async function handle(message, { conversation_id }) {
  log("MESSAGE", {
    conversation_id,
    correlation_id: message.correlation_id,
    kind: message.kind,
    attempt: message.attempt,
  });
}

/** Signed by us (www.standardwebhooks.com), and not long ago. While secrets are rotated there are two signatures. */
function isSigned(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures = "" } = headers;
  if (!key.length || !(Math.abs(Date.now() / 1000 - Number(timestamp)) < 300)) return false;
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest();
  return signatures.split(" ").some((signature) => {
    const given = Buffer.from(signature.replace(/^v1,/, ""), "base64");
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
}

// A request may come twice: where its answer was lost, or a lease ended. What is in here was done; a service that must
// not forget when it restarts keeps that in its database.
const done = new Set();
function remember(id) {
  done.add(id);
  if (done.size > 100_000) done.delete(done.values().next().value);
}

async function answer(request) {
  if (request.method !== "POST") return 405;
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    if ((size += chunk.length) > maxBody) return 413;
    chunks.push(chunk);
  }
  const body = Buffer.concat(chunks);
  if (!isSigned(request.headers, body)) return 401;
  const delivery = JSON.parse(body);
  for (const message of delivery.messages) {
    if (done.has(message.whatsapp_message_id)) continue;
    await handle(message, delivery);
    remember(message.whatsapp_message_id);
  }
  return 204;
}

const server = createServer(async (request, response) => {
  const status = await answer(request).catch((error) => {
    log("FAILED", { correlation_id: request.headers["x-correlation-id"], error: error.name });
    return 500;
  });
  response.writeHead(status).end();
});
server.listen(Number(process.env.PORT ?? 8080), () => log("LISTENING", { port: server.address().port }));
// Answers what has come, and ends.
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => server.close(() => log("STOPPED")) && server.closeIdleConnections());
}

// The webhook of a WhatsApp bot, as an edge function. It hands each delivery to the database, answers Meta as soon as
// it is taken in, and then has the handler in bot.ts process what waits. Order, idempotency, locks, retries and dead
// letters are the database's. A line of the log is a JSON object, without payloads, phone numbers and message ids
// (which contain phone numbers).
import { handle } from "./bot.ts";
import { dashboard } from "./dashboard.ts";
import { nameOf, rawBody, Refusal, statusOf } from "./http.ts";
import { health, metrics } from "./metrics.ts";
import { verify } from "./standard_webhooks.ts";
import { type Claim, isUnavailable, type Message, sqlstate, Wahook } from "./wahook.ts";

const env = Deno.env.toObject();
const service = env.WAHOOK_SERVICE ?? "default";
const concurrency = Number(env.WAHOOK_CONCURRENCY ?? 4); // conversations in work at a time
const timeoutMs = Number(env.WAHOOK_TIMEOUT_MS ?? 10_000); // of the handler, for a message
const leaseMs = 120_000;
const patienceMs = 60_000; // with a database that is away
const LOCK_LOST = "WH002";
const db = new Wahook({ connectionString: env.DATABASE_URL, schema: env.WAHOOK_SCHEMA, max: concurrency + 4 });

const log = (level: "info" | "warn" | "error", event: string, fields: Record<string, unknown>) =>
  console[level](JSON.stringify({ time: new Date().toISOString(), level, event, ...fields }));

// --- Processing

/** Rejects when the time is over, whether the handler heeds its signal or not. */
function inTime<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const signal = AbortSignal.timeout(timeoutMs);
  const late = Promise.withResolvers<never>();
  const expire = () => late.reject(new Error(`not processed within ${timeoutMs} ms`));
  signal.addEventListener("abort", expire);
  return Promise.race([work(signal), late.promise]).finally(() => signal.removeEventListener("abort", expire));
}

/** Runs the handler and completes the message. Returns why it failed; throws where that is not the handler's fault. */
async function processMessage(claim: Claim, message: Message): Promise<unknown> {
  const { conversation_id } = claim;
  const { correlation_id, attempt } = message;
  const featureEnabled = (flag: string) => db.featureEnabled(flag, claim.user_id);
  const agent = (agentType: string) => db.agent(claim, agentType);
  const begin = performance.now();
  let work;
  try {
    work = await inTime(async (signal) => await handle(message, { claim, signal, featureEnabled, agent }));
  } catch (error) {
    log("warn", "MESSAGE_FAILED", { correlation_id, conversation_id, attempt, error: nameOf(error) });
    return error ?? new Error("thrown without a reason");
  }
  const duration_ms = Math.round(performance.now() - begin);
  try {
    const first = await db.complete(claim, message, duration_ms, work || undefined);
    log("info", "MESSAGE_PROCESSED", { correlation_id, conversation_id, attempt, duration_ms, repeated: !first });
  } catch (error) {
    if (sqlstate(error) === LOCK_LOST || isUnavailable(error)) throw error;
    return error; // of the work that the handler returned
  }
}

/** The messages of a claim in order. One that fails does not hold up the next, unless its service is strict. */
async function processMessages(claim: Claim, leasedAt: number, fail: (message: Message, error: unknown) => unknown) {
  let completed = 0;
  for (const message of claim.messages) {
    if (performance.now() - leasedAt > leaseMs / 2) {
      leasedAt = performance.now();
      await db.renew(claim, leaseMs);
    }
    const error = await processMessage(claim, message);
    if (!error) completed++;
    else await fail(message, error);
    if (error && await db.isStrict(claim.service)) break;
  }
  return completed;
}

async function processClaim(claim: Claim, leasedAt: number): Promise<void> {
  try {
    await processMessages(claim, leasedAt, (message, error) => db.fail(claim, message, error));
  } catch (error) {
    if (sqlstate(error) !== LOCK_LOST) throw error;
    log("warn", "LOCK_LOST", { conversation_id: claim.conversation_id }); // somebody else goes on with it
  } finally {
    await db.release(claim); // what is left waits again
  }
}

let closing = false;
let more = false; // something came in while all were at work
const running = new Set<Promise<void>>();

async function processWaiting(): Promise<void> {
  for (let lastGood = Date.now(); !closing;) {
    more = false;
    try {
      const leasedAt = performance.now();
      const [claim] = await db.claim(1, service, leaseMs);
      if (claim) await processClaim(claim, leasedAt);
      else if (!more) return;
      lastGood = Date.now();
    } catch (error) {
      if (!isUnavailable(error) || Date.now() - lastGood > patienceMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

/** Processes what waits, beside the requests. Supabase lets the function live until this is done. */
function startProcessing(conversations: number): void {
  more = true;
  for (; conversations > 0 && running.size < concurrency && !closing; conversations--) {
    const task: Promise<void> = processWaiting()
      .catch((error) => log("error", "PROCESSING_STOPPED", { error: nameOf(error) }))
      .finally(() => running.delete(task));
    running.add(task);
    // deno-lint-ignore no-explicit-any
    (globalThis as any).EdgeRuntime?.waitUntil(task);
  }
}

// --- Requests

/** Meta asks whether this URL is meant. */
async function handshake(url: URL): Promise<Response> {
  const hub = (key: string) => url.searchParams.get(`hub.${key}`);
  try {
    return new Response(await db.verifySubscription(hub("mode"), hub("verify_token"), hub("challenge")));
  } catch (error) {
    throw sqlstate(error) && !isUnavailable(error) ? new Refusal(403, "not verified") : error;
  }
}

async function delivery(request: Request, correlation_id: string): Promise<Response> {
  const body = await rawBody(request);
  const receipts = await db.receive(body, request.headers.get("x-hub-signature-256"), correlation_id);
  const count: Record<string, number> = {};
  for (const { outcome } of receipts) count[outcome] = (count[outcome] ?? 0) + 1;
  log("info", count.duplicate ? "WEBHOOK_DUPLICATE_DETECTED" : "WEBHOOK_RECEIVED", { correlation_id, ...count });
  startProcessing(new Set(receipts.map((receipt) => receipt.conversation_id)).size);
  return Response.json({ correlation_id, ...count });
}

/** The worker posts a claim of its own. Of a 500 it fails all messages; where some are completed, we fail the others. */
async function internal(request: Request): Promise<Response> {
  const body = await rawBody(request);
  if (!verify(request.headers, body, env.WAHOOK_SIGNING_SECRET, env.WAHOOK_BEARER_TOKEN)) {
    throw new Refusal(401, "not signed by the worker");
  }
  const claim: Claim = JSON.parse(body);
  const failed: [Message, unknown][] = [];
  const completed = await processMessages(claim, performance.now(), (...failure) => failed.push(failure));
  const result = { completed, errors: failed.map(([, error]) => String(error)) };
  if (failed.length && !completed) return Response.json(result, { status: 500 });
  for (const failure of failed) await db.fail(claim, ...failure);
  if (completed + failed.length < claim.messages.length) await db.release(claim);
  return Response.json(result);
}

function route(request: Request, correlationId: string): Promise<Response> {
  const url = new URL(request.url);
  const path = url.pathname.split("/").pop(); // Supabase puts the function's name before it
  const get = request.method === "GET";
  if (get && path === "health") return health(db);
  if (get && path === "metrics") return metrics(db, request, env.WAHOOK_METRICS_TOKEN);
  if (get && path === "dashboard") return dashboard(db, request, env.WAHOOK_DASHBOARD_TOKEN);
  if (path !== "webhook") throw new Refusal(404, "not found");
  if (get) return handshake(url);
  if (request.method !== "POST") throw new Refusal(405, "method not allowed");
  return request.headers.has("x-wa-internal-forward") ? internal(request) : delivery(request, correlationId);
}

async function answer(request: Request): Promise<Response> {
  const given = request.headers.get("x-correlation-id") ?? "";
  const correlation_id = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i.test(given) ? given : crypto.randomUUID();
  let response: Response;
  try {
    response = await route(request, correlation_id);
  } catch (error) {
    const status = statusOf(error);
    log(status < 500 ? "warn" : "error", "REQUEST_REFUSED", { correlation_id, status, error: nameOf(error) });
    response = Response.json({ correlation_id, error: nameOf(error) }, { status });
    if (status === 503) response.headers.set("Retry-After", "5");
  }
  response.headers.set("X-Correlation-ID", correlation_id);
  return response;
}

const onListen = ({ port }: { port: number }) => log("info", "LISTENING", { port });
const server = Deno.serve({ port: Number(env.PORT ?? 8000), onListen }, answer);

/** Takes no more requests, and ends when those that came are answered and what was claimed is processed. */
async function shutdown(): Promise<void> {
  closing = true;
  await server.shutdown();
  await Promise.all(running);
  await db.close();
}
for (const signal of ["SIGTERM", "SIGINT"] as const) Deno.addSignalListener?.(signal, shutdown);
addEventListener("beforeunload", () => closing = true); // how Supabase says that the time is nearly over

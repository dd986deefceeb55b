// A worker that pulls: it claims conversations and has their messages processed in order, several conversations at a time.
// Run as many of them as you like.
//   DATABASE_URL=... node pull-worker.mjs ./handler.mjs
// The module's default export is async handle(message, { claim, signal }). What it throws fails the message, which is
// retried later. It may return async work(tx), which is done in the transaction that completes the message: once.
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import pg from "pg";

const concurrency = Number(process.env.CONCURRENCY ?? 4);
const service = process.env.SERVICE ?? "default";
const leaseMs = Number(process.env.LEASE_MS ?? 60_000);
const timeoutMs = Number(process.env.TIMEOUT_MS ?? 10_000); // of the handler, for a message
const [minPauseMs, maxPauseMs] = [50, 5000]; // between looks where nothing waits

const { default: handle } = await import(pathToFileURL(process.argv[2]));
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 2 * concurrency });
// A connection that breaks while it is idle tells only these; the next query gets another one.
pool.on("error", () => {});
pool.on("connect", (client) => client.on("error", () => {}));

const stopping = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => stopping.abort());
const log = (event, fields) => console.log(JSON.stringify({ time: new Date().toISOString(), event, ...fields }));

/** Nothing more may be done with the claim: the lease is lost, or the database is. */
class Abandoned extends Error {}

const row = async (sql, values, on = pool) => (await on.query(sql, values)).rows[0];

/** Again where another transaction is at the same row: then nothing was done. */
async function persist(call) {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (error.code !== "55P03") throw error;
      await sleep(minPauseMs);
    }
  }
}

/** Completes a message together with its work, or does neither. */
async function complete({ conversation_id, lock_id }, { whatsapp_message_id }, work) {
  const client = await pool.connect().catch((cause) => {
    throw new Abandoned("no connection", { cause });
  });
  let broken = false;
  try {
    await client.query("BEGIN");
    await work?.(client);
    const { n } = await row(
      "SELECT complete_webhook_messages($1, $2, ARRAY[$3], p_release => false) AS n",
      [conversation_id, lock_id, whatsapp_message_id],
      client,
    );
    await client.query(n === 1 ? "COMMIT" : "ROLLBACK"); // 0: it does not wait, so it was completed before
  } catch (cause) {
    broken = await client.query("ROLLBACK").then(() => false, () => true);
    throw broken || cause.code === "WH002" ? new Abandoned("lost", { cause }) : cause;
  } finally {
    client.release(broken);
  }
}

/** What the handler returns, or why it was not waited for: its time is over, or the lease is lost. */
function inTime(signal, work) {
  return Promise.race([
    work,
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true })),
  ]);
}

/** Processes a message. Whether those behind it may follow: not where it failed and its service is strict about order. */
async function processMessage(claim, message, lost) {
  const { conversation_id, lock_id } = claim;
  const { whatsapp_message_id, correlation_id, attempt } = message;
  const signal = AbortSignal.any([lost, AbortSignal.timeout(timeoutMs)]);
  try {
    const work = await inTime(signal, handle(message, { claim, signal }));
    await persist(() => complete(claim, message, work));
    log("MESSAGE_PROCESSED", { conversation_id, correlation_id, attempt });
    return true;
  } catch (error) {
    if (error instanceof Abandoned) throw error;
    const values = [conversation_id, lock_id, whatsapp_message_id, String(error?.message ?? error), error?.stack];
    await persist(() => row("SELECT FROM fail_webhook_message($1, $2, $3, $4, $5)", values));
    log("MESSAGE_FAILED", { conversation_id, correlation_id, attempt });
    return !(await row("SELECT strict_order FROM webhook_services WHERE name = $1", [claim.service])).strict_order;
  }
}

/** Processes a claim under a lease that is renewed for as long as that takes. */
async function processClaim(claim) {
  const lock = [claim.conversation_id, claim.lock_id];
  const lost = new AbortController();
  // An error may pass: there are two more times before the lease runs out.
  const renewing = setInterval(async () => {
    const values = [...lock, `${leaseMs} ms`];
    const { until } = await row("SELECT renew_conversation_lock($1, $2, $3) AS until", values).catch(() => ({}));
    if (until === null) lost.abort(new Abandoned("lost"));
  }, leaseMs / 3);
  try {
    for (const message of claim.messages) {
      lost.signal.throwIfAborted();
      if (stopping.signal.aborted || !(await processMessage(claim, message, lost.signal))) break;
    }
  } catch (error) {
    log("CLAIM_ABANDONED", {
      conversation_id: claim.conversation_id,
      error: error.cause?.code ?? error.code ?? error.name,
    });
  } finally {
    clearInterval(renewing);
    await persist(() => row("SELECT release_conversation_lock($1, $2)", lock)); // what is left waits again
  }
}

/** Until it is told to stop: claim and process; where nothing waits, or the database is away, pause longer and longer. */
async function run() {
  for (let pause = minPauseMs; !stopping.signal.aborted;) {
    try {
      const claim = await row("SELECT * FROM claim_conversations(1, p_service => $1, p_lease => $2)", [
        service,
        `${leaseMs} ms`,
      ]);
      if (claim) {
        await processClaim(claim);
        pause = minPauseMs;
        continue;
      }
    } catch (error) {
      log("DATABASE_ERROR", { error: error.code ?? error.name });
    }
    await sleep(pause * (0.5 + Math.random()), null, { signal: stopping.signal }).catch(() => {});
    pause = Math.min(2 * pause, maxPauseMs);
  }
}

log("STARTED", { concurrency });
await Promise.all(Array.from({ length: concurrency }, run));
await pool.end();
log("STOPPED", {});

// Every call of the client, for test/t/edge.pl, beside a copy of it: what comes back has the types that it says.
//   client.ts DATABASE_URL BODY SIGNATURE
import { isUnavailable, sqlstate, Wahook } from "./wahook.ts";

const [connectionString, body, signature] = Deno.args;
const db = new Wahook({ connectionString, schema: "public" });

function check(what: string, holds: boolean): void {
  console.log(`${holds ? "ok" : "not ok"} ${what}`);
}

/** The error of a call that must fail. */
const failure = (call: Promise<unknown>) => call.then(() => check("no error", false), (error) => error);

const correlationId = crypto.randomUUID();
check("verifySubscription", await db.verifySubscription("subscribe", "the-token", "42") === "42");
const [claim] = await db.receiveAndClaim(body, signature, correlationId);
check("receiveAndClaim", claim.messages.length === 3 && claim.messages[0].correlation_id === correlationId);
check("receive", (await db.receive(body, signature, correlationId)).every(({ outcome }) => outcome === "duplicate"));
check("claim: somebody else has it", (await db.claim(1, claim.service, 1000)).length === 0);
check("renew", await db.renew(claim, 60_000) instanceof Date);
const [first, second, third] = claim.messages;
check("complete", await db.complete(claim, first, 5));
check(
  "complete: not twice",
  !await db.complete(claim, first, 5, (tx) => tx.query("INSERT INTO work (message_id) VALUES ('twice')")),
);
await db.fail(claim, second, new Error("for the test"));
check("fail: not twice", sqlstate(await failure(db.fail(claim, second, "again"))) === "WH009");
check(
  "work that fails",
  sqlstate(await failure(db.complete(claim, third, 5, (tx) => tx.query("SELECT 1/0")))) === "22012",
);
check("the connection is as good as new", (await db.pool.query("SELECT 1 AS one")).rows[0].one === 1);
check("release", await db.release(claim));
check("release: not twice", !await db.release(claim));
check("complete: the lock is lost", sqlstate(await failure(db.complete(claim, third, 5))) === "WH002");
const [again] = await db.claim(1, claim.service, 60_000);
check("claim: what was left", again.messages.length === 1 && BigInt(again.lock_token) > BigInt(claim.lock_token));
check("complete: the rest", await db.complete(again, again.messages[0], 5) && await db.release(again));
const agent = db.agent(again, "waiter");
check("agent: prompt", ((await agent.prompt([third])).messages as unknown[]).length === 1);
check(
  "agent: the lock is lost",
  sqlstate(await failure(db.pool.connect().then((tx) => agent.save([third])(tx).finally(() => tx.release())))) ===
    "WH002",
);
check("featureEnabled", await db.featureEnabled("no such feature", claim.user_id) === false);
check("isStrict", await db.isStrict("default") === false && await db.isStrict("no such service") === false);
check("checkRateLimit", (await db.checkRateLimit("15550001111", "default")).allowed);
check("alerts", Array.isArray(await db.alerts()));
check("stats", (await db.stats(1)).every(({ value }) => typeof value === "number"));
check("health", ["ok", "degraded", "down"].includes((await db.health()).status));
check("dashboard", (await db.dashboard()).startsWith("<!DOCTYPE html>"));
check("metrics", /^wahook_info\{/m.test(await db.metrics()));
check("view", (await db.view("webhook_dlq_summary")).length > 0);
await db.close();

const nowhere = new Wahook({ connectionString: "postgres://bot@127.0.0.1:1/postgres" });
check("no server", isUnavailable(await failure(nowhere.alerts())));
await nowhere.close();

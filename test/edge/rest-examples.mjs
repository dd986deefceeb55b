// Runs the examples of doc/rest.md as they stand, in order, with the client of supabase-js, and compares what they print
// with what is shown. An error that an example does not look at is a failure. Then it calls every function that it was
// told of, with nothing but nulls, to see that the call reaches the function.
//   rest-examples.mjs CONNECTION SCHEMA ROLE SECRET DOCUMENT FUNCTIONS [--fix]
// Prints the names of the functions that the examples call.
import { createHmac, webcrypto } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { PostgrestClient } from "@supabase/postgrest-js";
import { serve } from "./rest.mjs";

const [connectionString, schema, role, secret, document, functions, fix] = process.argv.slice(2);
globalThis.crypto ??= webcrypto; // Debian 12 has Node 18
const rest = await serve({ connectionString, schema, role });
const client = new PostgrestClient(rest.url);
const sign = (body) => "sha256=" + createHmac("sha256", secret).update(body).digest("hex");

function delivery(from, ...messages) {
  const value = {
    messaging_product: "whatsapp",
    metadata: { display_phone_number: "15550001111", phone_number_id: "1000" },
    messages: messages.map(([id, body]) => ({ from, id, timestamp: "1760000000", type: "text", text: { body } })),
  };
  return JSON.stringify({
    object: "whatsapp_business_account",
    entry: [{ id: "1", changes: [{ field: "messages", value }] }],
  });
}

const body = delivery("15552223333", ["wamid.1", "A table for two"], ["wamid.2", "at eight"]);
const otherBody = delivery("15552223334", ["wamid.3", "Hello"]);
const agentBody = delivery("15552223335", ["wamid.4", "A table for two"]);
const request = { headers: new Map([["x-hub-signature-256", sign(body)]]) };
const called = new Set();
let wrong = 0;
let text = readFileSync(document, "utf8");

/** What an example prints, each argument as JSON, a line a call. */
async function run(code) {
  const printed = [];
  const print = { log: (...values) => printed.push(values.map((value) => JSON.stringify(value)).join(" ") + "\n") };
  const rpc = async (name, ...rest) => {
    called.add(name);
    const result = await client.rpc(name, ...rest);
    if (result.error && !/error\./.test(code)) throw new Error(`${name}: ${JSON.stringify(result.error)}`);
    return result;
  };
  const example = Object.getPrototypeOf(async () => {}).constructor(
    "supabase",
    "request",
    "body",
    "otherBody",
    "agentBody",
    "sign",
    "console",
    code,
  );
  await example({ rpc }, request, body, otherBody, agentBody, sign, print);
  return printed.join("");
}

for (const [block, code, shown] of text.matchAll(/^```ts\n(.*?)^```\n\n```text\n(.*?)^```\n/gms)) {
  const printed = await run(code).catch((error) => `${error.message}\n`);
  if (printed === shown) continue;
  if (fix) {
    text = text.replace(block, () => `\`\`\`ts\n${code}\`\`\`\n\n\`\`\`text\n${printed}\`\`\`\n`);
  } else {
    console.error(`shown is\n${shown}but printed is\n${printed}of\n${code}`);
    wrong++;
  }
}
if (fix) writeFileSync(document, text);

// Reached: the function itself answers or refuses, in an SQLSTATE of its own or of data; the layer has found it, and the
// role may call it. With GET, where it claims to read only, it must not be a write that it refuses.
const refusals = /^(WH|22|23|55|42704|2201W)/;
for (const name of functions.split(",")) {
  const { names, required, volatility } = rest.cache.find((f) => f.name === name) ?? {};
  const attempts = [names, names.slice(0, required)].map((given) =>
    Object.fromEntries(given.map((arg) => [arg, null]))
  );
  for (const args of attempts) {
    const { error } = await client.rpc(name, args);
    if (error && !refusals.test(error.code)) {
      console.error(`${name}(${Object.keys(args)}) by POST: ${JSON.stringify(error)}`);
      wrong++;
    }
  }
  if (volatility !== "v" && !required) {
    const { error } = await client.rpc(name, undefined, { get: true });
    if (error && !refusals.test(error.code)) {
      console.error(`${name} by GET: ${JSON.stringify(error)}`);
      wrong++;
    }
  }
}
await rest.close();
console.log([...called].sort().join("\n"));
process.exit(wrong ? 1 : 0);

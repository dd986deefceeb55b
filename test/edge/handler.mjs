// The handler that test/t/recipes.pl gives to the pull worker: it fails, hangs or waits where a message asks for it.
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export default async function handle(message, { claim, signal }) {
  const [order, file] = message.message.text.body.split(" ");
  if (order === "hang") await new Promise(() => {});
  if (order === "wait") { while (!existsSync(file)) await sleep(20, null, { signal }); }
  if (order === "fail" && message.attempt === 1) throw new Error("told to fail");
  return (tx) =>
    tx.query("INSERT INTO work (message_id, conversation_id, worker) VALUES ($1, $2, $3)", [
      order === "break" ? null : message.whatsapp_message_id,
      claim.conversation_id,
      process.env.NAME,
    ]);
}

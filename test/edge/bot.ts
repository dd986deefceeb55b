// The bot of test/t/edge.pl: it writes down what it processed, in the transaction that completes it, and fails, hangs, waits or
// succeeds where the text of a message asks for it.
import type { Handler } from "./wahook.ts";

/** Some fail at first, whatever they are: one in eight, always the same. */
function isUnlucky(id: string): boolean {
  let hash = 0;
  for (const char of id) hash = (hash * 31 + char.charCodeAt(0)) >>> 0;
  return hash % 8 === 0;
}

export const handle: Handler = async (message, { claim, featureEnabled }) => {
  const id = message.whatsapp_message_id;
  const [order, argument] = String(message.message.text?.body ?? "").split(" ");
  if (order === "hang") await new Promise(() => {});
  if (order === "wait") {
    while (!await Deno.stat(argument).catch(() => null)) await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const fails = order === "fail" || (order !== "succeed" && isUnlucky(id));
  if (fails && message.attempt === 1) throw new Error(`told to fail ${id}`);

  const flag = order === "flag" ? await featureEnabled(argument) : null;
  return (tx) =>
    tx.query(
      "INSERT INTO work (message_id, conversation_id, lock_token, flag, body) VALUES ($1, $2, $3, $4, $5)",
      order === "break"
        ? [null, null, null, null, null]
        : [id, claim.conversation_id, claim.lock_token, flag, message.message.text?.body],
    );
};

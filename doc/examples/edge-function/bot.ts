// What your bot does with a message: this is the file to edit.
//
// A handler that returns has processed its message. One that throws, or is not done after ten seconds, has failed: the
// message comes again in 1, 2 and 4 minutes. The messages of a conversation come in order, one at a time.
import type { Handler, Message } from "./wahook.ts";

export const handle: Handler = async (message, { signal, featureEnabled }) => {
  const text = message.message.text?.body;
  if (!text) return; // an image, a location, ...: message.kind tells which

  // A flag in the database: off, on, or on for test users or a share of the users.
  const enhanced = await featureEnabled("enhanced_processing");
  const name = message.contact?.profile?.name ?? "friend";
  await reply(message, enhanced ? `${name} said: ${text}` : `You said: ${text}`, signal);

  // A crash between here and the completion sends the reply again. What you write to this database is written once,
  // if you return it as work, which is done in the transaction that completes the message:
  //
  //   return (tx) => tx.query("INSERT INTO orders (message_id, what) VALUES ($1, $2)", [message.whatsapp_message_id, text]);
};

/** Sends a text to whoever wrote the message, by WhatsApp's Cloud API. */
async function reply(message: Message, body: string, signal: AbortSignal): Promise<void> {
  const { from, from_user_id } = message.message; // a user who hides the phone number has a user id only
  const url = Deno.env.get("GRAPH_URL") ?? "https://graph.facebook.com/v23.0";
  const response = await fetch(`${url}/${message.metadata.phone_number_id}/messages`, {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${Deno.env.get("WHATSAPP_TOKEN")}` },
    body: JSON.stringify({
      messaging_product: "whatsapp",
      ...(from ? { to: from } : { recipient: from_user_id }),
      context: { message_id: message.whatsapp_message_id },
      type: "text",
      text: { body },
    }),
  });
  await response.body?.cancel();
  if (!response.ok) throw new Error(`the reply was refused with status ${response.status}`);
}

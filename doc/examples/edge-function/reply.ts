// What bots send.
import type { Message } from "./wahook.ts";

/** Sends a text to whoever wrote the message, by WhatsApp's Cloud API. */
export async function reply(message: Message, body: string, signal: AbortSignal): Promise<void> {
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

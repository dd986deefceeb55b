// What your bot does with a message: this is the file to edit.
//
// A handler that returns has processed its message. One that throws, or is not done after ten seconds, has failed: the
// message comes again in 1, 2 and 4 minutes. The messages of a conversation come in order, one at a time.
import { reply } from "./reply.ts";
import type { Handler } from "./wahook.ts";

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

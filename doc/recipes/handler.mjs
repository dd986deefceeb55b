// What the pull worker does with a message: the file to edit.
export default async function handle(message, { claim }) {
  const text = message.message.text?.body;
  if (!text) return;
  console.log(JSON.stringify({ event: "ORDER", conversation_id: claim.conversation_id, length: text.length }));

  // A table of your own. What is returned is done in the transaction that completes the message.
  return (tx) => tx.query("INSERT INTO orders (message_id, what) VALUES ($1, $2)", [message.whatsapp_message_id, text]);
}

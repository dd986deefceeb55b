// A handler for pull-worker.mjs whose answers a model writes. What the agent remembers of the conversation goes to the model
// with the message; message and answer are remembered in the transaction that completes the message, so once.
//   AGENT=waiter MODEL_URL=https://api.example.com/v1/chat/completions MODEL_KEY=... node pull-worker.mjs ./agent-handler.mjs
// The agent is a row of webhook_agents, with its model and system prompt. The worker of wahook can do all of this by itself,
// for services of kind agent; do it yourself where you call tools, stream, or use another API.
import pg from "pg";

const agent = process.env.AGENT ?? "waiter";
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 4 });
pool.on("error", () => {});

export default async function handle(message, { claim, signal }) {
  const values = [claim.conversation_id, agent, JSON.stringify([message])];
  const { rows: [{ prompt }] } = await pool.query("SELECT agent_prompt($1, $2, $3) AS prompt", values);
  const began = Date.now();
  const response = await fetch(process.env.MODEL_URL, {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${process.env.MODEL_KEY}` },
    body: JSON.stringify(prompt),
  });
  if (!response.ok) throw new Error(`the model answered with status ${response.status}`);
  const { choices: [{ message: answer }], usage, model } = await response.json();

  return async (tx) => {
    const details = { model, duration_ms: Date.now() - began, correlation_id: message.correlation_id };
    const turn = [
      claim.lock_id,
      JSON.stringify([message, answer]),
      JSON.stringify(usage ?? null),
      JSON.stringify(details),
    ];
    const { rows: [{ saved }] } = await tx.query(
      "SELECT agent_save_turn($1, $3, $2, $4, p_usage => $5, p_details => $6) -> 'saved' AS saved",
      [claim.conversation_id, agent, ...turn],
    );
    // What is to be sent: with the answer, or not at all. Saved is false where the turn was saved before.
    if (saved) {
      await tx.query("INSERT INTO replies (conversation_id, body) VALUES ($1, $2)", [
        claim.conversation_id,
        answer.content,
      ]);
    }
  };
}

// A bot whose answers a model writes, in place of bot.ts: load, call, save. Prompt, model and budget are rows of webhook_agents.
//
// A turn that fails is tried again later, like any message; one that is saved is saved together with the completion, once.
import { reply } from "./reply.ts";
import type { ChatMessage, Handler } from "./wahook.ts";

export const handle: Handler = async (message, { signal, agent }) => {
  const waiter = agent("waiter");
  const answer = await complete(await waiter.prompt([message]), signal);
  const [{ message: text }] = answer.choices;
  await reply(message, text.content, signal);
  return waiter.save([message, text], answer.usage);
};

/** Any endpoint that speaks chat completions. */
async function complete(prompt: unknown, signal: AbortSignal) {
  const response = await fetch(Deno.env.get("MODEL_URL") ?? "https://api.openai.com/v1/chat/completions", {
    method: "POST",
    signal,
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${Deno.env.get("MODEL_KEY")}` },
    body: JSON.stringify(prompt),
  });
  if (!response.ok) throw new Error(`the model answered with status ${response.status}`);
  return await response.json() as { choices: { message: ChatMessage }[]; usage?: unknown };
}

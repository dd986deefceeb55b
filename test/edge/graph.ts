// Meta's other side, for test/t/edge.pl: takes the messages that a bot sends, and writes down each, with its path and its
// token, as a line of JSON.
//   graph.ts PORT FILE
const [port, file] = Deno.args;

Deno.serve({ port: Number(port) }, async (request) => {
  const sent = {
    path: new URL(request.url).pathname,
    authorization: request.headers.get("authorization"),
    ...await request.json(),
  };
  await Deno.writeTextFile(file, JSON.stringify(sent) + "\n", { append: true });
  return Response.json({ messages: [{ id: "wamid.reply" }] });
});

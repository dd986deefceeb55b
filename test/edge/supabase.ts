// What Supabase's runtime has and Deno has not, and the other way round, for test/t/edge.pl.
Object.assign(globalThis, {
  EdgeRuntime: {
    waitUntil: (task: Promise<unknown>) =>
      task.then(() =>
        console.log(JSON.stringify({ time: new Date().toISOString(), level: "info", event: "TASK_DONE" }))
      ),
  },
});
Object.assign(Deno, { addSignalListener: undefined });

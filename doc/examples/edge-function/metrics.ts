// What /health and /metrics answer, made of what the monitoring functions and views tell.
import { isUnavailable, type Wahook } from "./wahook.ts";

type Row = Record<string, unknown>;

async function collect(db: Wahook) {
  const [stats, alerts, conversations, dead_letters] = await Promise.all([
    db.stats(),
    db.alerts(),
    db.view("webhook_conversation_health"),
    db.view("webhook_dlq_summary"),
  ]);
  return { stats, alerts, conversations, dead_letters };
}

const escape = (value: unknown) =>
  String(value).replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");

/** A metric with a sample a row; the columns that are named become labels. */
function metric(name: string, help: string, rows: Row[], value: string | number, labels: string[] = []): string {
  const samples = rows.map((row) => {
    const list = labels.map((label) => `${label}="${escape(row[label])}"`).join(",");
    return `${name}${list && `{${list}}`} ${typeof value === "string" ? Number(row[value]) : value}\n`;
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} gauge\n${samples.join("")}`;
}

/** The text that Prometheus reads. */
function prometheusText(all: Awaited<ReturnType<typeof collect>>): string {
  const { stats, alerts, conversations, dead_letters } = all;
  return [
    ...stats.map((row) =>
      metric(`wahook_${row.metric_name}`, `${row.metric_name}, ${row.unit}`, [{ ...row }], "value")
    ),
    metric("wahook_alert", "1 while the alert is raised", [...alerts.map((row) => ({ ...row }))], 1, [
      "alert_type",
      "severity",
    ]),
    metric("wahook_conversations", "conversations active in the last 24 hours", conversations, "count", ["status"]),
    metric("wahook_conversations_locked", "those that are locked", conversations, "locked_count", ["status"]),
    metric("wahook_dead_letters", "dead letters of the last 24 hours", dead_letters, "count", ["resolution_status"]),
  ].join("");
}

export async function health(db: Wahook): Promise<Response> {
  const alerts = await db.alerts().catch((error) => {
    if (!isUnavailable(error)) throw error;
  });
  if (!alerts) return Response.json({ status: "unhealthy" }, { status: 503 });
  return Response.json({ status: alerts.length ? "degraded" : "healthy", alerts });
}

export async function metrics(db: Wahook, request: Request): Promise<Response> {
  const all = await collect(db);
  if (!/text\/plain|openmetrics/.test(request.headers.get("accept") ?? "")) return Response.json(all);
  return new Response(prometheusText(all), { headers: { "Content-Type": "text/plain; version=0.0.4" } });
}

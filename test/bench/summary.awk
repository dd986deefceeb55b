# Prints the measurements of test/bench/run: a line each (-v only=CASE -v clients=N), their heading (-v header=1), or the
# ratios and targets of all of them (-v targets=1 -v main=N).
BEGIN {
	FS = "\t"
	format = "%-10s %7s %12s %9s %9s %9s %11s %11s %7s\n"
	if (header)
		printf "\n" format, "case", "clients", "messages/s", "p50 ms", "p95 ms", "p99 ms", "WAL B/msg", "dead/msg", "HOT %"
}

{
	v[$1, $2, $3] = $4
	if (!(($2) in seen)) {
		seen[$2] = 1
		order[++n] = $2
	}
}

function rate(name, k) {
	return (name, k, "elapsed") in v ? v[name, k, "messages"] / v[name, k, "elapsed"] : 0
}

function ratio(above, below, k) {
	return rate(above, k) && rate(below, k) ? rate(above, k) / rate(below, k) : ""
}

function show(x) { return x == "" ? "-" : sprintf("%.2f", x) }

# A target is judged where both of its measurements were made.
function target(what, x, least) {
	if (x != "")
		printf "  %-58s %8.2f  %s %s\n", what, x, (x >= least ? "reached:" : "MISSED: "), "at least " least
}

END {
	if (only && (only, clients, "messages") in v) {
		m = v[only, clients, "messages"]
		printf format, only, clients, sprintf("%.0f", rate(only, clients)), v[only, clients, "p50"], v[only, clients, "p95"],
			v[only, clients, "p99"], m ? sprintf("%.0f", v[only, clients, "wal"] / m) : "-",
			m ? sprintf("%.2f", v[only, clients, "dead"] / m) : "-",
			v[only, clients, "hot"] == "-" ? "-" : sprintf("%.1f", v[only, clients, "hot"])
	}
	if (!targets)
		exit
	printf "\n%-10s %8s %8s %8s %8s\n", "clients", "c/a1", "c/b", "d/b", "d/a100"
	for (i = 1; i <= n; i++)
		printf "%-10s %8s %8s %8s %8s\n", order[i], show(ratio("c", "a1", order[i])), show(ratio("c", "b", order[i])),
			show(ratio("d", "b", order[i])), show(ratio("d", "a100", order[i]))
	printf "\nat %s clients\n", main
	target("c, messages a second, of the one-row insert", ratio("c", "a1", main), 0.35)
	target("c, of the first implementation", ratio("c", "b", main), 1.5)
	target("d, of the first implementation", ratio("d", "b", main), 10)
	target("d, of the insert of 100 rows", ratio("d", "a100", main), 0.3)
	target("c, HOT updates of conversations, percent", v["c", main, "hot"], 95)
	target("d, HOT updates of conversations, percent", v["d", main, "hot"], 95)
	target("e, skewed of even, a message a claim", ratio("e1-skew", "e1-even", main), 0.7)
	target("e, skewed of even, 300 messages a claim", ratio("e300-skew", "e300-even", main), 0.7)
	split("fc fd", held, " ")
	for (i = 1; i <= 2; i++)
		if (v[held[i], main, "first"])
			printf "  %-58s %8.2f  (%d, then %d messages a second)\n", held[i] ", a snapshot held elsewhere: last minute of first",
				v[held[i], main, "last"] / v[held[i], main, "first"], v[held[i], main, "first"], v[held[i], main, "last"]
}

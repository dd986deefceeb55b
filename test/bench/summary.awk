# Prints what test/bench/run measured: the heading (-v header=1), a line for one measurement (-v only=CASE -v clients=N -v
# round=N), or the ratios and targets (-v targets=1 -v main=CLIENTS), which are of the medians over all rounds.
BEGIN {
	FS = "\t"
	format = "%-10s %7s %11s %9s %9s %9s %10s %9s %8s %6s\n"
	if (header)
		printf "\n" format, "case", "clients", "messages/s", "p50 ms", "p95 ms", "p99 ms", "CPU us/msg", "WAL B/msg", "dead/msg", "HOT %"
}

{
	v[$1, $2, $3, $5] = $4
	if ($5 > rounds)
		rounds = $5
	if (!($2 in seen)) {
		seen[$2] = 1
		order[++n] = $2
	}
}

function rate_of(name, k, r) { return v[name, k, "messages", r] / v[name, k, "elapsed", r] }

# The median over the rounds of a result, or of the messages a second; empty where it was not measured.
function median(name, k, what, r, i, j, count, sorted, x) {
	count = 0
	for (r = 1; r <= rounds; r++) {
		if (!((name, k, "messages", r) in v) || v[name, k, what, r] == "-")
			continue
		if (what == "rate")
			x = rate_of(name, k, r)
		else if (what == "us")
			x = 1000 * v[name, k, "cpu", r] / v[name, k, "messages", r]
		else
			x = v[name, k, what, r] + 0
		for (j = ++count; j > 1 && sorted[j - 1] > x; j--)
			sorted[j] = sorted[j - 1]
		sorted[j] = x
	}
	if (count == 0)
		return ""
	i = int((count + 1) / 2)
	return count % 2 ? sorted[i] : (sorted[i] + sorted[i + 1]) / 2
}

# How many times less processor time the server takes for a message.
function cpu_ratio(above, below, k, a, b) {
	a = median(above, k, "us")
	b = median(below, k, "us")
	return a && b ? b / a : ""
}

function ratio(above, below, k, a, b) {
	a = median(above, k, "rate")
	b = median(below, k, "rate")
	return a && b ? a / b : ""
}

function show(x) { return x == "" ? "-" : sprintf("%.2f", x) }

# A target is judged where both of its measurements were made.
function target(what, x, least) {
	if (x != "")
		printf "  %-58s %8.2f  %s %s\n", what, x, (x >= least ? "reached:" : "MISSED: "), "at least " least
}

function per_message(what, digits, m) {
	m = v[only, clients, "messages", round]
	return m ? sprintf("%." digits "f", v[only, clients, what, round] / m) : "-"
}

END {
	if (only)
		printf format, only, clients, sprintf("%.0f", rate_of(only, clients, round)), v[only, clients, "p50", round],
			v[only, clients, "p95", round], v[only, clients, "p99", round],
			sprintf("%.0f", per_message("cpu", 6) * 1000), per_message("wal", 0), per_message("dead", 2),
			v[only, clients, "hot", round] == "-" ? "-" : sprintf("%.1f", v[only, clients, "hot", round])
	if (!targets)
		exit
	line = "%-10s %8s %8s %8s %8s   %8s %8s %8s %8s\n"
	printf "\n" line line, "", "throughput", "", "", "", "processor", "", "", "",
		"clients", "c/a1", "c/b", "d/b", "d/a100", "c/a1", "c/b", "d/b", "d/a100"
	for (i = 1; i <= n; i++)
		printf line, order[i], show(ratio("c", "a1", order[i])), show(ratio("c", "b", order[i])),
			show(ratio("d", "b", order[i])), show(ratio("d", "a100", order[i])),
			show(cpu_ratio("c", "a1", order[i])), show(cpu_ratio("c", "b", order[i])),
			show(cpu_ratio("d", "b", order[i])), show(cpu_ratio("d", "a100", order[i]))
	printf "\nat %s clients\n", main
	target("c, of the one-row insert", ratio("c", "a1", main), 0.35)
	target("c, of the first implementation", ratio("c", "b", main), 1.5)
	target("d, of the first implementation", ratio("d", "b", main), 10)
	target("d, of the insert of 100 rows", ratio("d", "a100", main), 0.3)
	target("c, HOT updates of conversations, percent", median("c", main, "hot"), 95)
	target("d, HOT updates of conversations, percent", median("d", main, "hot"), 95)
	target("e, skewed of even, a message a claim", ratio("e1-skew", "e1-even", main), 0.7)
	target("e, skewed of even, 300 messages a claim", ratio("e300-skew", "e300-even", main), 0.7)
	split("fc fd", held, " ")
	for (i = 1; i <= 2; i++)
		if (median(held[i], main, "first"))
			printf "  %-58s %8.2f  (%d, then %d messages a second)\n", held[i] ", a snapshot held elsewhere: last minute of first",
				median(held[i], main, "last") / median(held[i], main, "first"), median(held[i], main, "first"), median(held[i], main, "last")
}

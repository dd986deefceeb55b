/*
 * Regular expressions that operators write, on text that users write.
 */
#ifndef WAHOOK_ROUTE_REGEX_H
#define WAHOOK_ROUTE_REGEX_H

#include "postgres.h"

/*
 * Whether the subject has a match of the regular expression (text). False and *problem, palloc'd, when
 * it is none, or takes longer than timeout_ms.
 */
extern bool wahook_regex_matches(Datum regex, const char *subject, int len, int timeout_ms,
								 const char **problem);

#endif

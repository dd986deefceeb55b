/*
 * SQLSTATEs of class WH, wahook's own. doc/reference/errors.md tells callers what each means.
 */
#ifndef WAHOOK_ERRORS_H
#define WAHOOK_ERRORS_H

#define WAHOOK_ERRCODE(d) MAKE_SQLSTATE('W', 'H', '0', '0', d)

#define WAHOOK_BAD_SIGNATURE WAHOOK_ERRCODE('1')
#define WAHOOK_LOCK_LOST WAHOOK_ERRCODE('2')
#define WAHOOK_UNKNOWN_CONVERSATION WAHOOK_ERRCODE('3')
#define WAHOOK_TRANSITION_NOT_ALLOWED WAHOOK_ERRCODE('4')
/* WH005, circuit open, comes with the circuits. */
#define WAHOOK_NOT_CONFIGURED WAHOOK_ERRCODE('6')
#define WAHOOK_INVALID_BODY WAHOOK_ERRCODE('7')
#define WAHOOK_BODY_TOO_LARGE WAHOOK_ERRCODE('8')
#define WAHOOK_UNKNOWN_MESSAGE WAHOOK_ERRCODE('9')

#endif

/*
 * The settings of handler processes.
 */
#ifndef WAHOOK_HANDLER_SETTINGS_H
#define WAHOOK_HANDLER_SETTINGS_H

#include "postgres.h"

extern int wahook_handler_workers;
extern int wahook_handler_idle_timeout_s;

extern void wahook_define_handler_settings(void);

#endif

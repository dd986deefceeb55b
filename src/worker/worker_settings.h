/*
 * The settings of the launcher and the worker.
 */
#ifndef WAHOOK_WORKER_SETTINGS_H
#define WAHOOK_WORKER_SETTINGS_H

#include "postgres.h"

extern char *wahook_databases;

extern void wahook_define_worker_settings(void);

#endif

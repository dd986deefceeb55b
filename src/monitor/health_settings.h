/*
 * The wahook.health_* settings: from where on something is an alert.
 */
#ifndef WAHOOK_HEALTH_SETTINGS_H
#define WAHOOK_HEALTH_SETTINGS_H

extern int wahook_health_clock_jump_s; /* -1: no jump is one */

extern void wahook_define_health_settings(void);

#endif

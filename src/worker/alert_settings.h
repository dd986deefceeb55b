/*
 * The settings of alerts: how often is looked for them, and who is told.
 */
#ifndef WAHOOK_ALERT_SETTINGS_H
#define WAHOOK_ALERT_SETTINGS_H

extern const char *wahook_alert_url;    /* NULL: nobody is told */
extern const char *wahook_alert_secret; /* one or more, separated by commas; NULL: unsigned */
extern int wahook_alert_interval_s;     /* 0: off */

extern void wahook_define_alert_settings(void);

#endif

-- Creates the extension for the tests that follow.
CREATE EXTENSION wahook;
SELECT extname, extrelocatable FROM pg_extension WHERE extname = 'wahook';

"""The process that runs at a site: it asks the coordinator for work, trains on local data and sends updates."""

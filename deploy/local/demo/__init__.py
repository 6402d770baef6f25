"""The demo: a simulated platform, a second service of the cloud, and three customers' stories in three minutes."""

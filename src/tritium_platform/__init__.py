"""The service: tenants, quotas, metering, billing, audit, serving, and the program `tritiumd`."""

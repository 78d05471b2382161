"""Audit: how unsymmetric a potential is on given structures, in which channels, and whether it matters."""

from tumble.jobs.audit.job import audit
from tumble.jobs.audit.result import AuditResult
from tumble.jobs.audit.settings import AUDIT_V1, AuditSettings, Thresholds

__all__ = ["AUDIT_V1", "AuditResult", "AuditSettings", "Thresholds", "audit"]

//! The job-dashboard.

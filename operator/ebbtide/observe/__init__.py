"""Everything outside, read and never written: informers, engine metrics, gateway queues, prices -> one Snapshot."""

"""What the scripts share: options, the ledger, tables, figures, and the paper's sub-network."""

"""How many workers a number of jobs stands for."""

from joblib import cpu_count


def effective_jobs(n_jobs: int) -> int:
    """Resolve a number of workers: ``-1`` stands for all cores that this process may use.

    Raises
    ------
    ValueError
        If ``n_jobs`` is neither -1 nor at least 1.
    """
    if n_jobs != -1 and n_jobs < 1:
        msg = f"n_jobs must be -1 (all cores) or at least 1, got {n_jobs}."
        raise ValueError(msg)
    return int(cpu_count()) if n_jobs == -1 else n_jobs

"""Upload of an exported student to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from skipthinking.annotate.runner import say
from skipthinking.records import UserError

__all__ = ["check_push", "push"]


def check_push(repository: str, evaluate: bool) -> None:
    """Checks before a run that its student can be uploaded after it, as far as that is known without the network.

    Raises:
        UserError: The run exports no student, the name is invalid, or there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not evaluate:
        raise UserError(
            f"Expected a run that exports its student, got evaluate=false with push_to_hub={repository}. Leave one of "
            "them out."
        )
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(
            f"Expected the name of a repository on the hub, got push_to_hub={repository}: {error} Set push_to_hub: "
            "OWNER/NAME."
        ) from error
    if get_token() is None:
        raise UserError(
            f"Expected a token of the hub for push_to_hub={repository}, got none. Log in by `hf auth login`, or give "
            "the token in the variable HF_TOKEN."
        )


def push(folder: Path, repository: str, private: bool) -> bool:
    """Uploads a student; a failure is printed, because the run that it belongs to is complete.

    Args:
        folder: The exported student.
        repository: Name on the hub, OWNER/NAME; created if it does not exist.
        private: Whether the repository must be private.

    Returns:
        Whether it was uploaded.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    api, remedy = HfApi(), f"Upload it: hf upload {repository} {folder}"
    try:
        where = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.repo_info(where.repo_id).private:
            say(f"not pushed to {where}, which is public. The student is in {folder}. {remedy}, if that is meant")
            return False
        api.upload_folder(repo_id=where.repo_id, folder_path=folder, commit_message="Student of skipthinking")
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        say(
            f"not pushed to {repository}: {' '.join(str(error).split())[:300]} ({type(error).__name__}). The run is "
            f"complete, and the student is in {folder}. {remedy}"
        )
        return False
    say(f"pushed to {where}")
    return True

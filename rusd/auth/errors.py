"""What the auth room refuses, one class for each of etcd's errors."""


class AuthError(Exception):
    """A request that users, roles or permissions do not allow; nothing has changed."""


class RootUserNotExistError(AuthError):
    """Auth cannot be enabled: there is no user `root`."""


class RootRoleNotExistError(AuthError):
    """Auth cannot be enabled: the user `root` does not have the role `root`."""


class UserAlreadyExistsError(AuthError):
    """There is a user of that name."""


class UserEmptyError(AuthError):
    """A user's name is empty; also of a call that needs a user and names none."""


class UserNotFoundError(AuthError):
    """There is no user of that name."""


class RoleAlreadyExistsError(AuthError):
    """There is a role of that name."""


class RoleNotFoundError(AuthError):
    """There is no role of that name."""


class RoleEmptyError(AuthError):
    """A role's name is empty."""


class AuthFailedError(AuthError):
    """No such user, or not its password; which of them is not told."""


class NoPasswordUserError(AuthError):
    """A password was given for a user who has none."""


class PasswordTooLongError(AuthError):
    """bcrypt sees no more than 72 bytes of a password."""


class PermissionNotGivenError(AuthError):
    """A grant that says nothing of what is granted."""


class PermissionDeniedError(AuthError):
    """The user has no right to this."""


class RoleNotGrantedError(AuthError):
    """The user does not have the role."""


class PermissionNotGrantedError(AuthError):
    """The role does not have the permission."""


class AuthNotEnabledError(AuthError):
    """Nobody can log in while auth is off."""


class InvalidAuthTokenError(AuthError):
    """A token that is none, has expired, or was taken back."""


class InvalidAuthMgmtError(AuthError):
    """A change that would lock everybody out, or a range that is none."""


class AuthOldRevisionError(AuthError):
    """Users, roles or permissions have changed since the token was made."""


class VerifyOnlyError(AuthError):
    """This member can verify tokens, and has no key to sign one."""
